"""Names for the arrays that statistics take and give."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
"""0 or 1 of each patch or slide."""
Floats: TypeAlias = NDArray[np.float64]
Probabilities: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
"""How often each patch or slide was drawn in a resample."""
