"""All faults: short, typical mistakes of this field.

They are found by name, so a fault can be run alone: `python -m tests.faults
gates`.
"""

from __future__ import annotations

from tests.faults import kernels
from tests.faults import models
from tests.faults import training

FAULTS = (*kernels.FAULTS, *models.FAULTS, *training.FAULTS)
