"""Trained models as callables: storyboards to videos, and edits of a video."""

from ttt_jax.pipeline.edit import EditPipeline as EditPipeline
from ttt_jax.pipeline.video import VideoPipeline as VideoPipeline
from ttt_jax.video.video_array import Video as Video
