"""Measures frame consistency and text alignment of edited videos.

    ttt-jax evaluate_edit --clip=FOLDER \\
        --video=a.mp4 --prompt="a red panda on a bike" \\
        --video=b.mp4 --prompt="a bike in the snow" [--json=FILE]

FOLDER contains a CLIP in transformers' layout, for example a download of
openai/clip-vit-large-patch14: config.json, model.safetensors, vocab.json,
merges.txt and preprocessor_config.json. Prints the two numbers of the paper's
table, each 100 times a mean cosine, and the consistency of consecutive frames.
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags
from rich import console as rich_console
from rich import table as rich_table

from ttt_jax.runtime import cli
from ttt_jax.runtime import files

_CLIP = flags.DEFINE_string(
  'clip',
  None,
  "Folder of a CLIP in transformers' layout.",
  required=True,
)
_VIDEOS = flags.DEFINE_multi_string(
  'video', None, 'Edited video; may be given several times.', required=True
)
_PROMPTS = flags.DEFINE_multi_string(
  'prompt',
  None,
  'Text of the edit; one per --video, in the same order.',
  required=True,
)
_JSON = flags.DEFINE_string('json', '', 'JSON file to write; default: none.')

_COLUMNS = {
  'frame_consistency': 'frame consistency',
  'neighbours': 'of consecutive frames',
  'text_alignment': 'text alignment',
}


def main(_) -> None:
  videos, prompts = _VIDEOS.value, _PROMPTS.value
  if len(videos) != len(prompts):
    raise ValueError(
      f'{len(videos)} --video and {len(prompts)} --prompt; give one of each'
      ' for every edit'
    )
  for path in videos:
    if not pathlib.Path(path).exists():
      raise FileNotFoundError(f'{path} does not exist; name a video')
  if _JSON.value:
    files.check_writable(_JSON.value)
  from ttt_jax.evaluation import clip_score

  score = clip_score.CLIPScore.load(_CLIP.value)
  # Rejects a prompt that is too long before any video is read.
  texts = [score.embed_text(prompt) for prompt in prompts]
  edits: list[dict[str, Any]] = []
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
  mean = {
    name: sum(edit[name] for edit in edits) / len(edits) for name in _COLUMNS
  }
  _print(edits, mean)
  if _JSON.value:
    files.write_json(
      dict(clip=_CLIP.value, edits=edits, mean=mean), _JSON.value
    )


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
  cli.run(main)
