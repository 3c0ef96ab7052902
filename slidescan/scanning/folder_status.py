"""The state of a folder of maps: its manifest, who is at work, and what has been lost since."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slidescan.scanning.cohort import LEASES
from slidescan.scanning.manifest import DONE, MANIFEST, Row, read_manifest
from slidescan.tools.leases import DURATION_S, holders
from slidescan.tools.urls import Place, is_there

SCANNING = "scanning"


@dataclass(frozen=True, slots=True)
class Status:
    """The rows of a manifest, with the state `scanning` for those in progress."""

    rows: list[Row]
    notes: list[str]
    """what is wrong with slides that are done, a line each"""


def read_status(folder: Place) -> Status:
    """Read the manifest and the leases of a folder. Raises SlidescanError."""
    working = holders(folder / LEASES)
    rows, notes = [], []
    for name, row in read_manifest(folder / MANIFEST).items():
        holder = working.get(name)
        if holder and holder.seen_s < DURATION_S:
            row |= {"state": SCANNING, "reason": f"by process {holder.pid} on {holder.host}"}
        elif row["state"] == DONE:
            notes += _lost(folder, row)
        rows.append(row)
    return Status(rows, notes)


def _lost(folder: Place, row: Row) -> list[str]:
    notes = []
    root = folder / row["map"] / "zarr.json"
    # An object store would be asked once a map.
    if isinstance(root, Path) and not root.is_file():
        notes.append(f"{row['map']}: done, but the map is gone; slidescan heatmap scans it again")
    if not is_there(row["slide"]):
        notes.append(f"{row['map']}: done, but {row['slide']} is no longer there")
    return notes
