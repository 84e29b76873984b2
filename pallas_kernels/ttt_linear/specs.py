"""Shapes and random values of the arguments of `ttt_linear`."""

from __future__ import annotations

import functools

from pallas_kernels import specs

# Letters of each weight's shape without B, in the order of the call.
WEIGHTS = {'w': 'HDD', 'b': 'HD'}
# All arguments in the order of the call.
NAMES = ('q', 'k', 'v', 'eta', *WEIGHTS, 'ln_scale', 'ln_bias')

shapes = functools.partial(specs.argument_shapes, weights=WEIGHTS)
random_arguments = functools.partial(specs.random_arguments, weights=WEIGHTS)
