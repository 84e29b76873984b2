"""Permutations with the structure of those in models."""

from __future__ import annotations

import numpy as np

from pallas_kernels.permute_rows.permutation import Permutation


def backwards(
  segments: int, text: int, video: int, first: int, fill: int
) -> Permutation:
  """Returns a permutation that reverses the video but not the text.

  The source is [first rows][text 0][video 0][text 1][video 1]...[fill]. The
  result contains the texts from the last to the first, each followed by a part
  of the video, whose rows are reversed; the first part is longer by `first`.

  Args:
    segments: number of segments of the sequence.
    text: rows of text per segment.
    video: rows of video per segment.
    first: rows of video before the first segment.
    fill: rows at the end that keep their position.
  """
  length = first + segments * (text + video)
  own = first + np.arange(segments * (text + video)).reshape(segments, -1)
  texts, videos = own[::-1, :text], own[:, text:]
  videos = np.concatenate([np.arange(first), videos.ravel()])[::-1]
  parts = np.split(videos, first + video * np.arange(1, segments))
  index = [rows for pair in zip(texts, parts) for rows in pair]
  index.append(np.arange(length, length + fill))
  return Permutation.from_index(np.concatenate(index))


def paper_63s() -> Permutation:
  """Returns the reversed scan of the paper's 63 s of 480x720 video.

  Padded to full mini-batches of 64 tokens on each of four chips.
  """
  return backwards(segments=21, text=498, video=16200, first=1350, fill=248)
