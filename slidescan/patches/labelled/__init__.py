"""Labelled patches: layouts, checks, the packed cache and the split."""

from slidescan.patches.labelled.dataset import Data, load_data, write_split
from slidescan.patches.labelled.patches import Patches

__all__ = ["Data", "Patches", "load_data", "write_split"]
