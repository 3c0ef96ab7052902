"""Labelled patches: layouts, checks, the packed cache and the split."""

from slidescan.patches.labelled.dataset import load_data, write_split
from slidescan.patches.labelled.division import Data, ValidationSet
from slidescan.patches.labelled.patches import Patches

__all__ = ["Data", "Patches", "ValidationSet", "load_data", "write_split"]
