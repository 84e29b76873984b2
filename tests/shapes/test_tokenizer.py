"""ttt_jax/shapes/tokenizer.py: CLIP's tokenizer with a small vocabulary."""

from ttt_jax.models.text import clip_tokenizer
from ttt_jax.shapes import captions
from ttt_jax.shapes import tokenizer
from ttt_jax.shapes import world


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
    len(tokenize.tokens(captions.caption(look))) for look in world.looks()
  )
  assert longest == 9 < tokenizer.LENGTH
