"""The comparison of mixers, without its trainings."""

import dataclasses
import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest

from examples.cartoon import comparison
from examples.cartoon import comparison_report
from examples.cartoon import linear
from examples.cartoon import render
from examples.cartoon import world
from tests.helpers import commands
from tests.helpers import configs
from ttt_jax import convert
from ttt_jax.encoders import video_encoder
from ttt_jax.evaluation import story_scores
from ttt_jax.models.dit import DiTConfig
from ttt_jax.models.dit import model as dit_model
from ttt_jax.runtime import files

recipe = configs.load('comparison')
DOCS = pathlib.Path(__file__).resolve().parents[3] / 'docs'


def test_models_have_the_same_size():
  sizes = {}
  for mixer in comparison.MIXERS:
    config = recipe.get_config(f'63s,{mixer}')
    params = dit_model.abstract_params(DiTConfig(**config.model))
    sizes[mixer] = sum(x.size for x in jax.tree.leaves(params))
  middle = (max(sizes.values()) + min(sizes.values())) / 2
  assert all(abs(n / middle - 1) < 0.05 for n in sizes.values()), sizes


def test_recipe():
  config = recipe.get_config('30s,mamba2,0.04')
  assert (config.stage, config.model.mixer) == ('30s', 'mamba2')
  rates = {g['lr'] for _, g in config.optimizer.groups}
  assert max(rates) == pytest.approx(0.04 * recipe.STAGES['30s'][3])
  assert recipe.get_config('9s').model.mixer == 'ttt_mlp'
  with pytest.raises(ValueError, match="mixer 'mamba3'; expected one of none"):
    recipe.get_config('9s,mamba3,0.02')
  # Everything that is trained and judged is prepared.
  prepared = [step.title for _, step in comparison.preparation()]
  assert [t for t in prepared if t.startswith('precompute')] == [
    f'precompute {stage}' for stage in comparison.STAGES
  ]


def test_linear_autoencoder(tmp_path):
  linear.write(tmp_path / 'vae', stories=3)
  encoder = video_encoder.load_video_encoder(tmp_path / 'vae')
  story = world.draw_story(0, 1, world.SETTINGS['simple'])
  frames = render.frames(story, linear.HEIGHT, linear.WIDTH, step=4)
  latents, _ = encoder.encode(frames)
  assert latents.shape[:3] == (4, 4, 6)
  # An even number of latents, of which the first one is a single frame.
  decoded = encoder.decode(latents)
  assert decoded.shape == frames.shape
  error = np.mean((decoded / 255.0 - frames / 255.0) ** 2)
  assert -10 * np.log10(error) > 20


def test_sizes_of_a_linear_autoencoder(tmp_path):
  sizes = linear.Sizes(64, 96, fps=8, channels=40, cell=16, balance=0.5)
  linear.write(tmp_path / 'vae', stories=2, sizes=sizes)
  config, _ = convert.load_vae(tmp_path / 'vae')
  assert config.spatial_compression == 16
  scales = np.array(config.scaling_factor)
  assert scales.shape == (40,)
  assert (np.diff(scales) <= 1e-6).all()  # The first component is the largest.
  np.testing.assert_allclose(np.mean(scales**2), 1, rtol=1e-5)
  pixels = linear.balanced_scales(np.array([4.0, 1.0]), 0.0)
  np.testing.assert_allclose(pixels[0] / pixels[1], 4)
  assert (linear.balanced_scales(np.array([4.0, 1.0]), 1.0) == 1).all()


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('fps', 3, 'fps is 3; it must divide 16, for example 4'),
    ('cell', 6, 'cell is 6; it must be a multiple of 4 that divides 32x48'),
    ('channels', 769, 'channels is 769; expected 1 to 768'),
    ('balance', 1.5, 'balance is 1.5; expected 0 to 1'),
  ],
)
def test_sizes_that_do_not_fit(field, value, message):
  with pytest.raises(ValueError, match=message):
    linear.Sizes(**{field: value})


def verdict(workdir, mixer, seed, number, **axes):
  event = story_scores.Event(
    'character', 'pip', 3, 9.0, 6.0, True, True, mixer == 'ttt_mlp', 1.0, True
  )
  score = story_scores.StoryScore(
    f'test_{number:06}',
    story_scores.with_mean(axes),
    {},
    (event,),
    {'look': story_scores.Count(1, 2, 0.1)},
  )
  folder = workdir / 'verdicts' / mixer / f'{seed}' / '9s'
  folder.mkdir(parents=True, exist_ok=True)
  value = files.to_json_types(dataclasses.asdict(score))
  files.write_json(value, folder / f'{number}.json')


def test_returning_places_by_the_seed_of_the_training():
  def score(seed, *told):
    events = [
      story_scores.Event(
        kind, 'barn', 3, 9.0, 6.0, is_return, True, True, 1.0, right
      )
      for kind, is_return, right in told
    ]
    axes = story_scores.with_mean({'text': 0.5})
    return story_scores.StoryScore(f'{seed}/a', axes, {}, tuple(events), {})

  found = comparison_report._by_seed(
    [
      score(1, ('place', True, True), ('place', False, False)),
      score(0, ('place', True, True), ('place', True, False)),
      score(0, ('place', True, False), ('character', True, True)),
      score(2, ('character', True, True)),
    ]
  )
  assert found == dict(seeds=3, by_seed={'0': 1 / 3, '1': 1.0, '2': None})


def test_tables(tmp_path, capsys):
  for seed in (0, 1):
    for number in range(12):
      wins = number % 3 > 0
      verdict(tmp_path, 'ttt_mlp', seed, number, text=0.5 + 0.1 * wins)
      verdict(tmp_path, 'none', seed, number, text=0.55)
  (tmp_path / 'search').mkdir()
  files.write_json({'0.02': 0.5}, tmp_path / 'search' / 'none.json')
  results = comparison_report.read(tmp_path)
  value = results['lengths']['9s']
  assert value['mixers']['ttt_mlp']['seeds'] == 2
  assert value['mixers']['ttt_mlp']['stories'] == 24
  rated = value['ratings']['axes']['text']['ratings']
  assert rated['ttt_mlp']['rating'] > rated['none']['rating']
  assert results['search'] == {'none': {'0.02': 0.5}}
  comparison_report.print_tables(results)
  shown = capsys.readouterr().out
  assert '100.0% of 24' in shown and '0.0% of 24' in shown
  returns = dict(comparison_report.tables(results))[
    '9s: returns after an absence'
  ]
  all_, no = '100% (100% to 100%) of 24', '0% (0% to 0%) of 24'
  assert returns[1:] == [
    ['ttt_mlp', '–', '–', all_, all_],
    ['none', '–', '–', all_, no],  # As told, and not as at first.
  ]
  comparison_report.draw(results, tmp_path / 'figure.png')
  assert (tmp_path / 'figure.png').stat().st_size > 5000


def test_the_loss_of_a_search(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  rows = [dict(step=s, loss=1 / s) for s in range(10, 160, 10)]
  lines = '\n'.join(json.dumps(row) for row in [*rows, *rows[-2:]])
  path.write_text(lines)
  last = [1 / s for s in (110, 120, 130, 140, 150)]
  assert comparison_report.search_loss(path) == pytest.approx(np.mean(last))
  path.write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "loss": NaN}\n')
  assert comparison_report.search_loss(path) == float('inf')


def test_a_learning_rate_that_is_too_large(tmp_path, monkeypatch, capsys):
  def train(step, workdir):
    rate = step.arguments[0].rpartition(',')[2]
    folder = workdir / f'search/mamba2/{rate}/search'
    folder.mkdir(parents=True, exist_ok=True)
    row = dict(step=150, loss=float(rate))
    (folder / 'metrics.jsonl').write_text(json.dumps(row))
    if rate == str(comparison.RATES[-1]):
      raise comparison.demo_steps.StepFailedError(status)

  status = 2  # The loss is not finite.
  monkeypatch.setattr(comparison.demo_steps, 'run', train)
  found = comparison.Comparison(tmp_path).learning_rate('mamba2')
  assert found == min(comparison.RATES)
  # The next run reads it.
  assert comparison.Comparison(tmp_path).learning_rate('mamba2') == found
  (tmp_path / 'search' / 'mamba2.json').unlink()
  shown = capsys.readouterr().out
  assert f'{max(comparison.RATES)} is too large; see above' in shown
  status = 75  # Stopped from outside: no answer.
  with pytest.raises(SystemExit):
    comparison.Comparison(tmp_path).learning_rate('mamba2')
  status = 2
  monkeypatch.setattr(comparison, 'RATES', comparison.RATES[-1:])
  with pytest.raises(ValueError, match='too large for mamba2'):
    comparison.Comparison(tmp_path).learning_rate('mamba2')


def test_results_of_two_protocols_do_not_mix(tmp_path):
  compare = comparison.Comparison(tmp_path / 'new')
  compare.check_protocol()
  compare.check_protocol()
  (tmp_path / 'old' / 'runs').mkdir(parents=True)
  with pytest.raises(ValueError, match='has runs of version 1 of the protocol'):
    comparison.Comparison(tmp_path / 'old').check_protocol()


def test_results_in_an_archive(tmp_path, monkeypatch):
  first = comparison.Comparison(tmp_path / 'first')
  first.check_protocol()
  for number in (1000, 1001):
    verdict(first.workdir, 'none', 1, number, text=0.5)
  (first.workdir / 'search').mkdir()
  files.write_json({'0.02': 0.5}, first.workdir / 'search' / 'none.json')
  (first.workdir / 'runs').mkdir()
  (first.workdir / 'runs' / 'weights').write_text('large')
  archive = tmp_path / 'found.zip'
  first.pack(archive)
  monkeypatch.setattr(comparison, 'LENGTHS', (9,))
  second = comparison.Comparison(tmp_path / 'second')
  second.unpack(archive)
  # What it has counts as done.
  assert second.is_judged('none', 1, 2)
  assert not second.is_judged('none', 1, 3)
  assert not second.is_judged('none', 0, 2)
  assert second.learning_rate('none') == 0.02
  assert not (second.workdir / 'runs').exists()
  # New results are added to the old ones.
  verdict(second.workdir, 'mamba2', 0, 0, text=0.5)
  second.pack(archive)
  first.unpack(archive)
  assert set(comparison_report.read_scores(first.workdir)['9s']) == {
    'none',
    'mamba2',
  }


def test_archives_that_are_none(tmp_path, monkeypatch):
  compare = comparison.Comparison(tmp_path / 'work')
  (tmp_path / 'text.zip').write_text('no archive')
  with pytest.raises(ValueError, match='text.zip is no archive of results'):
    compare.unpack(tmp_path / 'text.zip')
  for text in ('no JSON', '[6]'):
    with zipfile.ZipFile(tmp_path / 'json.zip', 'w') as zipped:
      zipped.writestr('protocol.json', text)
    with pytest.raises(ValueError, match='json.zip is no archive of results'):
      compare.unpack(tmp_path / 'json.zip')
  # Damaged after the part that is read first.
  with zipfile.ZipFile(tmp_path / 'damaged.zip', 'w') as zipped:
    zipped.writestr('protocol.json', f'{{"version": {comparison._PROTOCOL}}}')
    zipped.writestr('verdicts/none/0/9s/0.json', '{"story": "test"}')
  content = (tmp_path / 'damaged.zip').read_bytes()
  damaged = content.replace(b'"story": "test"', b'"story": "tent"')
  (tmp_path / 'damaged.zip').write_bytes(damaged)
  with pytest.raises(ValueError, match='0.json is damaged'):
    compare.unpack(tmp_path / 'damaged.zip')
  other = comparison.Comparison(tmp_path / 'other')
  monkeypatch.setattr(comparison, '_PROTOCOL', 4)
  other.check_protocol()
  other.pack(tmp_path / 'old.zip')
  monkeypatch.undo()
  with pytest.raises(ValueError, match='old.zip has results of version 4'):
    compare.unpack(tmp_path / 'old.zip')
  assert not compare.workdir.exists()


def test_results_of_two_learning_rates_do_not_mix(tmp_path, monkeypatch):
  trained = []
  monkeypatch.setattr(
    comparison.demo_steps, 'run', lambda step, _: trained.append(step.title)
  )
  compare = comparison.Comparison(tmp_path)
  compare.train('mamba2', 0, 0.04)
  compare.train('mamba2', 0, 0.04)  # Goes on.
  assert len(trained) == 2 * len(comparison.STAGES)
  with pytest.raises(ValueError, match='learning rate 0.04, .* found 0.08'):
    compare.train('mamba2', 0, 0.08)
  compare.train('mamba2', 1, 0.08)


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], '--workdir is missing; give a folder'),
    (['--workdir=x', '--mixers=ttt'], "--mixers has 'ttt'; expected names"),
    (['--workdir=x', '--report'], 'x has no verdicts yet'),
    (['--workdir=x', '--stories=1001'], '--stories is 1001; expected at most'),
  ],
)
def test_bad_input(arguments, message, tmp_path):
  result = commands.run('examples.cartoon.comparison', *arguments, cwd=tmp_path)
  assert result.returncode == 2
  assert message in result.stderr
  assert not list(tmp_path.iterdir())


def test_the_page_shows_what_the_archive_has(tmp_path):
  comparison.Comparison(tmp_path).unpack(DOCS / 'comparison.zip')
  results = comparison_report.read(tmp_path)
  page = (DOCS / 'remember.md').read_text()
  percent = lambda share: f'{100 * share:.0f} %'
  lengths = results['lengths']
  for name, longest in lengths['63s']['mixers'].items():
    places = [
      value['mixers'][name]['returns']['place'] for value in lengths.values()
    ]
    losses = results['search'][name]
    low, high = (percent(places[-1][f'told_{end}']) for end in ('low', 'high'))
    cells = [
      min(losses, key=lambda rate: losses[rate]),
      *(percent(found['told']) for found in places),
      f'{low} to {high}',
    ]
    assert f'| `{name}` | {" | ".join(cells)} |' in page
    seeds = [value['mixers'][name]['by_seed'] for value in lengths.values()]
    cells = [
      ' / '.join(f'{100 * share:.0f}' for share in found.values()) + ' %'
      for found in seeds
    ]
    assert f'| `{name}` | {" | ".join(cells)} |' in page
    rating = lengths['63s']['ratings']['axes']['mean']['ratings'][name]
    cells = [
      *(f'{longest["axes"][axis]["mean"]:.3f}' for axis in story_scores.AXES),
      *(f'{rating[key]:.0f}' for key in ('rating', 'low', 'high')),
    ]
    assert (
      '| `{}` | {} | {} | {} | {} | {} ({} to {}) |'.format(name, *cells)
      in page
    )
