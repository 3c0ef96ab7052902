"""Labelled patches: layouts, checks, the packed cache and the split."""

from slidescan_train.data.dataset import Data, load_data, write_split
from slidescan_train.data.patches import Patches

__all__ = ["Data", "Patches", "load_data", "write_split"]
