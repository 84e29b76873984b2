"""Both towers of our CLIP, and its preprocessing, against transformers'."""

import numpy as np
import pytest

from ttt_jax import convert
from ttt_jax.encoders import clip_pixels
from ttt_jax.evaluation import clip_score

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

TEXTS = ['a red ball', 'the blue cat and the ball', '', 'a ' * 40]


def their_model(seed):
  """Returns a random CLIPModel and its image processor."""
  rng = np.random.default_rng(seed)
  pick = lambda *choices: choices[rng.integers(len(choices))]
  tower = lambda: dict(
    hidden_size=pick(16, 32),
    num_hidden_layers=pick(1, 3),
    intermediate_size=pick(24, 40),
    num_attention_heads=pick(2, 4),
    hidden_act=('quick_gelu', 'gelu')[seed % 2],
  )
  patch = pick(4, 7, 8)
  size = patch * pick(2, 3)
  torch.manual_seed(seed)
  # The vocabulary of the tokenizer in fixtures/tiny_clip.
  model = transformers.CLIPModel(
    transformers.CLIPConfig(
      text_config=dict(vocab_size=529, eos_token_id=528, **tower()),
      vision_config=dict(image_size=size, patch_size=patch, **tower()),
      projection_dim=pick(6, 16),
    )
  ).eval()
  for weight in model.parameters():
    weight.add_(0.2 * torch.randn_like(weight))
  return model, transformers.CLIPImageProcessorPil(
    size={'shortest_edge': size + pick(0, 3)}, crop_size=size
  )


@pytest.mark.parametrize('seed', range(4))
def test_vectors_and_pixels(seed, fixtures, tmp_path):
  model, processor = their_model(seed)
  model.save_pretrained(tmp_path)
  processor.save_pretrained(tmp_path)
  for name in ('vocab.json', 'merges.txt', 'special_tokens_map.json'):
    (tmp_path / name).write_bytes((fixtures / 'tiny_clip' / name).read_bytes())
  tokenizer = transformers.CLIPTokenizer(
    str(tmp_path / 'vocab.json'), str(tmp_path / 'merges.txt'), pad_token='!'
  )
  assert len(tokenizer) == convert.load_clip_model(tmp_path)[0].text.vocab_size
  rng = np.random.default_rng(seed)
  score = clip_score.CLIPScore.load(tmp_path)
  ids = tokenizer(
    TEXTS, padding='max_length', max_length=77, return_tensors='pt'
  ).input_ids
  read = clip_pixels.ClipPixels.load(tmp_path)
  model = model.double()
  for height, width in ((30, 41), (53, 29), (read.size, 64), (200, 150)):
    frames = rng.integers(0, 256, (3, height, width, 3)).astype(np.uint8)
    pixels = processor(list(frames), return_tensors='pt').pixel_values
    want = pixels.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(read(frames), want, atol=1e-6)
    found = model(input_ids=ids, pixel_values=pixels.double())
    for ours, theirs in (
      (score.embed(frames), found.image_embeds),
      (np.stack([score.embed_text(t) for t in TEXTS]), found.text_embeds),
    ):
      # The vectors have unit length.
      np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    cosines = (found.image_embeds @ found.text_embeds[0]).mean()
    assert (
      abs(score.text_alignment(frames, TEXTS[0]) - 100 * float(cosines)) < 1e-3
    )
