"""Shapes and random values of the arguments of `ttt_mlp`."""

from __future__ import annotations

import functools

from pallas_kernels import specs

# Letters of each weight's shape without B, in the order of the call.
WEIGHTS = {'w1': 'HDK', 'b1': 'HK', 'w2': 'HKD', 'b2': 'HD'}
# All arguments in the order of the call.
NAMES = ('q', 'k', 'v', 'eta', *WEIGHTS, 'ln_scale', 'ln_bias')

shapes = functools.partial(specs.argument_shapes, weights=WEIGHTS)
random_arguments = functools.partial(specs.random_arguments, weights=WEIGHTS)
