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


def test_a_state_tells_the_words_that_follow(tmp_path):
  text_encoder.write(tmp_path / 'text')
  encoder = load_text.load_text_encoder(tmp_path / 'text', text_encoder.LENGTH)

  def code(text, word, distance):
    """Returns the code, of unit length, of the word at a distance."""
    at = encoder.tokenize(text).index(encoder.tokenize(word)[1])
    start = text_encoder.LENGTH + 64 + 20 * (distance - 1)
    found = encoder.encode([text])[0, at, start : start + 20]
    return found / np.linalg.norm(found)

  look = 'Pip, a red fox with a blue hat, waves.'
  red = code('A red fox.', 'a', 1)
  blue = code('The boat is blue.', 'is', 1)
  assert code(look, 'pip', 3) @ red > 0.95
  assert code(look, 'pip', 7) @ blue > 0.95
  assert code('Mo and Pip, a red bear.', 'pip', 3) @ red > 0.95
  # A name alone does not tell the look.
  assert abs(code(look, 'pip', 3) @ blue) < 0.6
  assert abs(code('Pip waves at the boat.', 'pip', 3) @ red) < 0.6
