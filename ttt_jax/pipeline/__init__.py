"""Trained models as callables: storyboard to video, and edits of one video."""

from ttt_jax.pipeline.edit import EditPipeline as EditPipeline
from ttt_jax.pipeline.video import VideoPipeline as VideoPipeline
