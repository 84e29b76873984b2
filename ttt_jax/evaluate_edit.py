"""Measures frame consistency and text alignment of edited videos.

    ttt-jax evaluate_edit a.mp4 b.mp4 --clip=FOLDER \\
        --prompt="a red panda on a bike" --prompt="a bike in the snow"
    ttt-jax evaluate_edit a.mp4 --clip=FOLDER --prompt="a red panda" \\
        --out=scores.json

FOLDER contains a CLIP in transformers' layout, for example a download of
openai/clip-vit-large-patch14: config.json, model.safetensors, vocab.json,
merges.txt and preprocessor_config.json. Prints the two numbers of the paper's
table, each 100 times a mean cosine, and the consistency of consecutive frames.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

from absl import flags
from rich import console as rich_console
from rich import table as rich_table

from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import progress

_CLIP = flags.DEFINE_string(
  'clip',
  None,
  "Folder of a CLIP in transformers' layout.",
  required=True,
)
_PROMPTS = flags.DEFINE_multi_string(
  'prompt',
  None,
  'Text of the edit; one per video, in the same order.',
  required=True,
)
_OUT = flags.DEFINE_string('out', '', 'JSON file to write; default: none.')
# Spellings of earlier versions.
_VIDEOS = flags.DEFINE_multi_string(
  'video', None, 'Edited video, as an argument without a flag.'
)
flags.DEFINE_alias('json', 'out')

_COLUMNS = {
  'frame_consistency': 'frame consistency',
  'neighbours': 'of consecutive frames',
  'text_alignment': 'text alignment',
}


def main(argv: Sequence[str]) -> None:
  """Measures the videos in `argv`."""
  videos, prompts = [*argv[1:], *(_VIDEOS.value or ())], _PROMPTS.value
  out = _OUT.value
  if len(videos) != len(prompts):
    raise ValueError(
      f'the number of videos is {len(videos)}, that of --prompt {len(prompts)};'
      ' give one of each for every edit'
    )
  for path in videos:
    if not pathlib.Path(path).exists():
      raise FileNotFoundError(f'{path} does not exist; name a video')
  if out:
    files.check_writable(out)
  from ttt_jax.evaluation import clip_score

  with progress.Bar('loading CLIP', None):
    score = clip_score.CLIPScore.load(_CLIP.value)
  # Rejects a prompt that is too long before any video is read.
  texts = [score.embed_text(prompt) for prompt in prompts]
  edits: list[dict[str, Any]] = []
  with progress.Bar('measuring', len(videos)) as bar:
    for path, prompt, text in zip(videos, prompts, texts):
      frames = _read(path)
      vectors = score.embed(frames)
      edits.append(
        dict(
          video=path,
          prompt=prompt,
          frames=len(frames),
          frame_consistency=clip_score.consistency(vectors),
          neighbours=clip_score.consistency(vectors, 'consecutive'),
          text_alignment=clip_score.alignment(vectors, text),
        )
      )
      bar.advance()
  mean = {
    name: sum(edit[name] for edit in edits) / len(edits) for name in _COLUMNS
  }
  _print(edits, mean)
  if out:
    files.write_json(dict(clip=_CLIP.value, edits=edits, mean=mean), out)
    print(f'wrote {out}')


def _read(path: str):
  """Reads all frames, uint8 [F, H, W, 3], with sides rounded to 16."""
  from ttt_jax.video import video_file

  info = video_file.probe(path)
  height, width = (
    max(16, 16 * round(n / 16)) for n in (info.height, info.width)
  )
  return video_file.read_every(path, stride=1, height=height, width=width)


def _print(edits: list[dict[str, Any]], mean: dict[str, float]) -> None:
  table = rich_table.Table()
  table.add_column('video')
  table.add_column('prompt')
  for title in _COLUMNS.values():
    table.add_column(title, justify='right')
  for edit in edits:
    table.add_row(
      pathlib.Path(edit['video']).name,
      edit['prompt'],
      *(f'{edit[name]:.2f}' for name in _COLUMNS),
    )
  if len(edits) > 1:
    table.add_row('mean', '', *(f'{mean[name]:.2f}' for name in _COLUMNS))
  rich_console.Console().print(table)


if __name__ == '__main__':
  cli.run(main, arguments=True)
