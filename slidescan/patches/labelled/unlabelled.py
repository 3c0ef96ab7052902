"""A folder of images without labels: no training can use it, but it can be described."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slidescan.patches.labelled.listing import Listing
from slidescan.patches.labelled.sources import LABELS, images_in, layouts

NO_LABEL = -1


def is_unlabelled(root: Path) -> bool:
    """Whether a folder, or a folder in it, holds images, and nothing tells their labels."""
    found = layouts(root)
    without = not found or (found == ["kaggle"] and not (root / LABELS).exists())
    return without and any(images_in(folder) for folder in _folders(root))


def list_images(root: Path) -> Listing:
    """List all images in a folder and in the folders in it; an id is a file's path."""
    found = {
        str((folder / name).relative_to(root)): stamp
        for folder in _folders(root)
        for name, stamp in images_in(folder).items()
    }
    ids = tuple(sorted(found))
    labels = np.full(len(ids), NO_LABEL)
    return Listing(root, "unlabelled", ids, labels, ids, tuple(found[i] for i in ids))


def _folders(root: Path) -> list[Path]:
    return [root, *sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))]
