"""examples/shapes/tokenizer.py: CLIP's tokenizer with a small vocabulary."""

from examples.shapes import captions
from examples.shapes import tokenizer
from examples.shapes import world
from ttt_jax.encoders import clip_tokenizer


def test_words_are_tokens_and_others_are_spelled(tmp_path):
  size = tokenizer.write_tokenizer(tmp_path)
  tokenize = clip_tokenizer.find_tokenizer(tmp_path)
  names = {row: tokenize.pieces.id_to_token(row) for row in range(size)}
  for word in captions.words():
    ids = tokenize.tokens(word)
    assert [names[i] for i in ids[1:-1]] == [f'{word}</w>']
  spelled = tokenize.tokens('a bike')[1:-1]
  assert [names[i] for i in spelled] == ['a</w>', 'b', 'i', 'k', 'e</w>']
  longest = max(
    len(tokenize.tokens(captions.caption(attributes)))
    for attributes in world.all_attributes()
  )
  assert longest == 9 < tokenizer.LENGTH
