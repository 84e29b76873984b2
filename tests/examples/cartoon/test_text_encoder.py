"""The cartoon's text encoder: one code per word."""

import numpy as np

from examples.cartoon import text_encoder
from examples.cartoon import words
from ttt_jax.encoders import load_text


def test_words_have_codes_of_their_own(tmp_path):
  text_encoder.write(tmp_path / 'text')
  encoder = load_text.load_text_encoder(tmp_path / 'text', text_encoder.LENGTH)
  known = [w for w in words.VOCABULARY if not w.startswith('<')]
  ids = [encoder.tokenize(word)[1] for word in known]
  assert len(set(ids)) == len(known)  # None is unknown.
  start, end = encoder.scene_token_ids
  caption = '<start_scene>Pip, a red fox.<end_scene>'
  tokens = encoder.tokenize(caption)
  assert tokens[1] == start and tokens[-2] == end
  assert tokens[2:-2] == encoder.tokenize('pip , a red fox .')[1:-1]

  states = encoder.encode(['red fox', 'fox red', 'red bear'])
  # The same word at the same position, whatever its neighbours are.
  np.testing.assert_array_equal(states[0, 1], states[2, 1])
  # The code of the word does not depend on its position.
  np.testing.assert_allclose(states[0, 1, :64] - states[1, 2, :64], 0, atol=0.2)
  assert np.abs(states[0, 1, 64:] - states[1, 2, 64:]).max() > 0.5
