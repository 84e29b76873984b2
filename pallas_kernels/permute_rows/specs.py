"""Permutations of the kind that models use."""

from __future__ import annotations

import numpy as np

from pallas_kernels.permute_rows.permutation import Permutation


def backwards(
  segments: int, text: int, video: int, first: int, fill: int
) -> Permutation:
  """Returns a video backwards, between texts that stay forwards.

  Storage is [first rows][text 0][video 0][text 1][video 1]...[fill]. The
  result has the texts from the last to the first, each before a part of the
  video, whose rows run from the end; the first part is longer by `first`.

  Args:
    segments: parts of the sequence.
    text: rows of text in each.
    video: rows of video in each.
    first: rows of video before all.
    fill: rows at the end that stay there.
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
  """Returns the reversed reading of the paper's 63 s of 480x720 video.

  Filled up to whole mini-batches of 64 tokens on each of four chips.
  """
  return backwards(segments=21, text=498, video=16200, first=1350, fill=248)
