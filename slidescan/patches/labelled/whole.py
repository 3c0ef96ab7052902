"""All labelled patches of a folder, undivided: a data set that takes no part in training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from slidescan.errors import DataError
from slidescan.patches.labelled.cache import Progress, Say
from slidescan.patches.labelled.defects import refusal
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.reading import digest
from slidescan.patches.labelled.sources import ABOUT
from slidescan.patches.labelled.survey import survey


@dataclass(frozen=True, slots=True)
class Whole:
    """All patches of a folder without the defective ones."""

    patches: Patches
    about: str
    """Description of the patches, for a model's card."""


def load_all(
    root: Path,
    *,
    only: Path | None = None,
    cache: Path | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Whole:
    """Load the labelled patches under `root`; the arguments are those of `load_data`.

    Raises `DataError` where patches have defects and `skip_bad` is not set, or none is left.
    """
    found = survey(root, only=only, cache=cache, progress=progress, say=say)
    if found.defects and not skip_bad:
        raise refusal(root, found.defects, None)
    kept = found.kept()
    if not len(kept):
        raise DataError(f"{root}: no patch is left; correct --data or --ids")
    return Whole(found.patches().take(kept), ABOUT[found.listing.layout])


def fingerprint(patches: Patches) -> str:
    """Return the SHA-256 over id, label and the pixels' SHA-256 of every patch, in order."""
    found = hashlib.sha256()
    for row, (patch_id, label) in enumerate(zip(patches.ids, patches.labels.tolist(), strict=True)):
        line = f"{patch_id} {label} {digest(patches.pixels(row))}\n"
        found.update(line.encode(errors="surrogateescape"))
    return found.hexdigest()
