"""Windows over boolean arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def any_in_windows(
    mask: NDArray[np.bool_], starts: NDArray[np.int64], size: int, axis: int
) -> NDArray[np.bool_]:
    """Whether each window [start, start + size) along an axis of a 2-D mask holds a true value.

    >>> any_in_windows(np.eye(1, 6, 2, dtype=bool), np.array([0, 2, 3]), 3, axis=1).tolist()
    [[True, True, False]]
    """
    along = np.moveaxis(mask, axis, 0)
    counts = np.zeros((len(along) + 1, along.shape[1]), np.int32)
    np.cumsum(along, axis=0, out=counts[1:])
    held: NDArray[np.bool_] = counts[starts + size] > counts[starts]
    return np.moveaxis(held, 0, axis)
