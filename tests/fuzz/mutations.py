"""Changes to files: by their structure, by their bytes, and to their folder.

Every function takes a `random.Random` and nothing else that varies, so that a
target, a seed and an index name an input.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import pathlib
import random
from typing import Any

_DEEP = 100_000


class Raw(str):
  """JSON text that `dumps` writes as it is."""


SCALARS: tuple[Any, ...] = (
  *(None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 2**31, 2**63, -(2**40)),
  *(10**30, 0.5, -0.5, 1e-300, 1e308, -1e308),
  *(float('nan'), float('inf'), float('-inf'), Raw('1e400'), Raw('9' * 5000)),
  *('', ' ', 'x', '0', '8', 'nan', 'None', '\0', '\ud800', 'a\nb', '\u202e'),
  *('..', '../other/secret', '/', 'con', 'a' * 300, 'a/' * 200, '%s', '{x}'),
  *('<b>&"', '$(touch x)', '`x`', '-x', 'é' * 200, '日本', '<start_scene>'),
)
NESTED: tuple[Any, ...] = (
  *([], {}, [[]], [None], [-1], [0], ['x'], [1, 2, 3], [1.5, 'x']),
  *({'': None}, {'x': 1}, {'text': 'x'}, [float('nan')] * 4),
  *(Raw('[' * _DEEP + ']' * _DEEP), Raw('{"a":' * 2000 + '1' + '}' * 2000)),
)
_WORDS: tuple[bytes, ...] = (
  *(b'', b'\0', b'\xff' * 8, b'\xef\xbb\xbf', b'\r\n', b'{', b'"', b'nan'),
  *((2**n - 1).to_bytes(8, 'little') for n in (8, 16, 31, 32, 63, 64)),
)


def value(rng: random.Random) -> Any:
  """Returns a value that is seldom valid."""
  return rng.choice(SCALARS if rng.random() < 0.75 else NESTED)


def text(rng: random.Random, *more: str) -> str:
  """Returns a text that is seldom valid, or one of `more` with a change."""
  if more and rng.random() < 0.6:
    found = rng.choice(more)
    at = rng.randrange(len(found) + 1)
    inserted = rng.choice((*_characters(), found[:1], ''))
    return found[:at] + inserted + found[at + rng.randrange(3) :]
  return str(rng.choice(SCALARS))


def _characters() -> tuple[str, ...]:
  return (
    *('\0', '\n', ' ', '"', "'", '#', ':', '$(x)', '`', ';', '\\', '/', '..'),
    *(',', '=', '-', '--', '{', 'ü', '\ud800', 'A', '0', '9' * 30, 'x' * 300),
  )


def dumps(found: Any) -> str:
  """Returns JSON, with `Raw` parts as they are."""
  if isinstance(found, Raw):
    return found
  if isinstance(found, dict):
    pairs = (f'{json.dumps(str(k))}: {dumps(v)}' for k, v in found.items())
    return '{' + ', '.join(pairs) + '}'
  if isinstance(found, list):
    return '[' + ', '.join(map(dumps, found)) + ']'
  return json.dumps(found)


def structure(rng: random.Random, found: Any) -> str:
  """Returns the JSON of a value after one to four changes."""
  box = [json.loads(json.dumps(found))]
  for _ in range(1 + (rng.random() < 0.3) + 2 * (rng.random() < 0.1)):
    _change(rng, box)
  return dumps(box[0])


def _places(box: Any) -> list[tuple[Any, Any]]:
  """Returns (container, key) of every value inside."""
  found = []
  keys = box.keys() if isinstance(box, dict) else range(len(box))
  for key in keys:
    found.append((box, key))
    if isinstance(box[key], (dict, list)):
      found += _places(box[key])
  return found


def _change(rng: random.Random, box: list[Any]) -> None:
  places = _places(box)
  parent, key = rng.choice(places)
  old = parent[key]
  kind = rng.randrange(12)
  if kind < 5:
    parent[key] = value(rng)
  elif kind == 5 and parent is not box:
    del parent[key]
  elif kind == 6:
    other, name = rng.choice(places)
    parent[key] = json.loads(json.dumps(other[name], default=str))
  elif kind == 7 and isinstance(parent, dict):
    if rng.random() < 0.5:  # The key twice.
      twice = f'{dumps(old)}, {json.dumps(key)}: {dumps(value(rng))}'
      parent[key] = Raw(twice)
    else:
      parent[str(rng.choice(SCALARS))] = parent.pop(key)
  elif kind == 8:
    parent[key] = [old] if rng.random() < 0.5 else {'x': old}
  elif kind == 9 and isinstance(old, list) and old:
    length = rng.choice((0, 1, len(old) - 1, 2 * len(old), 300))
    parent[key] = [old[i % len(old)] for i in range(length)]
  elif isinstance(old, (int, float)) and not isinstance(old, bool):
    factors = (
      -old,
      old + 1,
      old * 2,
      old / 2,
      str(old),
      old * 10**9,
      old + 0.5,
    )
    parent[key] = rng.choice(factors)
  elif isinstance(old, str):
    parent[key] = text(rng, old)
  else:
    parent[key] = value(rng)


def octets(rng: random.Random, data: bytes) -> bytes:
  """Returns bytes after one to four changes."""
  for _ in range(rng.choice((1, 1, 2, 4))):
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.randrange(8)
    if kind == 0:
      data = data[:at]
    elif kind == 1:
      data = data[:at] + data[at + rng.choice((1, 4, end - at)) :]
    elif kind == 2 and data:
      at = min(at, len(data) - 1)
      data = (
        data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
      )
    elif kind == 3:
      data = data[:at] + rng.choice(_WORDS) + data[at:]
    elif kind == 4:
      word = rng.choice(_WORDS)
      data = data[:at] + word + data[at + len(word) :]
    elif kind == 5:
      data = data[:end] + data[at:end] * rng.choice((1, 3)) + data[end:]
    elif kind == 6:
      data = data[:at] + rng.randbytes(rng.choice((1, 8, 200))) + data[at:]
    else:
      data = _encode(rng, data)
  return data


def _encode(rng: random.Random, data: bytes) -> bytes:
  """Returns a text in another encoding or with other line ends."""
  try:
    found = data.decode()
  except UnicodeDecodeError:
    return data[::-1]
  encoding = rng.choice(('utf-8-sig', 'utf-16', 'utf-16-be', 'utf-32', ''))
  if not encoding:
    return found.replace('\n', '\r\n').encode()
  return found.encode(encoding, 'replace')


def safetensors(rng: random.Random, data: bytes) -> bytes:
  """Returns a safetensors file with another header."""
  size = int.from_bytes(data[:8], 'little')
  header = json.loads(data[8 : 8 + size])
  rest = data[8 + size :]
  if rng.random() < 0.3:
    name = rng.choice([k for k in header if k != '__metadata__'])
    entry = header[name]
    if rng.random() < 0.5:
      entry['dtype'] = rng.choice(
        ('I64', 'F8_E4M3', 'BF16', 'F64', 'x', 'BOOL')
      )
    else:
      header[str(rng.choice(SCALARS))] = header.pop(name)
    new = json.dumps(header).encode()
  else:
    new = structure(rng, header).encode('utf-8', 'surrogatepass')
  length = len(new) if rng.random() < 0.9 else rng.choice((0, size, 2**40))
  return length.to_bytes(8, 'little') + new + rest


def content(rng: random.Random, name: str, data: bytes) -> bytes:
  """Returns a file after changes that fit its kind."""
  if rng.random() < 0.75:
    if name.endswith(('.json', 'metadata', '.sharding')):
      return structure(rng, json.loads(data)).encode('utf-8', 'surrogatepass')
    if name.endswith('.jsonl'):
      lines = data.decode().splitlines()
      at = rng.randrange(len(lines))
      lines[at] = structure(rng, json.loads(lines[at]))
      return '\n'.join(lines).encode('utf-8', 'surrogatepass')
    if name.endswith('.safetensors'):
      return safetensors(rng, data)
  return octets(rng, data)


Files = dict[str, bytes]


def read(folder: pathlib.Path, *names: str) -> Files:
  """Returns the files of a folder by relative name; all if none is named."""
  paths = [folder / n for n in names] or sorted(folder.rglob('*'))
  return {
    p.relative_to(folder).as_posix(): p.read_bytes()
    for p in paths
    if p.is_file()
  }


def write(folder: pathlib.Path, files: Files) -> None:
  """Writes files below a folder."""
  for name, data in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_changed(
  rng: random.Random,
  folder: pathlib.Path,
  files: Files,
  changeable: Callable[[str], bool] = lambda name: True,
) -> None:
  """Writes files of which one or two are damaged or missing."""
  files = dict(files)
  names = [name for name in files if changeable(name)]
  chosen = rng.sample(names, min(len(names), 1 + (rng.random() < 0.15)))
  if rng.random() < 0.92:
    for name in chosen:
      files[name] = content(rng, name, files[name])
    write(folder, files)
    return
  write(folder, files)
  path = folder / chosen[0]
  path.unlink()
  kind = rng.randrange(5)
  if kind == 0:
    path.mkdir()
  elif kind == 1:
    path.symlink_to(path.name)  # A loop.
  elif kind == 2:
    path.symlink_to('missing')
  elif kind == 3:
    path.write_bytes(
      b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'
    )
