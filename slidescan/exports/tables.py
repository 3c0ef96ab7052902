"""Cells and regions as CSV and Parquet. Cells are written block by block."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slidescan.exports.cells import Places, in_order, pitch_l0
from slidescan.exports.region_tables import COLUMNS, origin, rows
from slidescan.maps.regions import Region
from slidescan.maps.store import Heatmap
from slidescan.protocols import OpenBar, no_bar
from slidescan.tools.atomic_files import replacing

CELL_COLUMNS = ("row", "column", "x_l0", "y_l0", "x_um", "y_um", "p")
"""Place of a cell in the map, its centre in px of level 0 and in um, and its P(tumour)."""

BATCH = 1 << 18
"""Rows in a group of a Parquet file, at least."""

Columns = dict[str, Any]
"""Arrays of one length, by the name of the column."""


def write_cells_csv(
    path: Path, heatmap: Heatmap, threshold: float | None, bar: OpenBar = no_bar
) -> int:
    """Write the cells from a threshold up, or all that have a value; return how many.

    Raises:
        MapError: the map cannot be read.
        WriteError: the file cannot be written.
    """
    count = 0
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CELL_COLUMNS)
        for places in in_order(heatmap, threshold, bar):
            columns = [each.tolist() for each in _columns(heatmap, places).values()]
            writer.writerows(zip(*columns, strict=True))
            count += len(places[0])
    return count


def write_cells_parquet(
    path: Path, heatmap: Heatmap, threshold: float | None, bar: OpenBar = no_bar
) -> int:
    """Write the cells as `write_cells_csv` does; needs pyarrow."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = (pa.int32(), pa.int32(), *(pa.float64() for _ in range(4)), pa.float32())
    schema = pa.schema(
        list(zip(CELL_COLUMNS, kinds, strict=True)), {"slidescan": json.dumps(origin(heatmap))}
    )
    count = 0
    with replacing(path) as beside, parquet.ParquetWriter(beside, schema) as writer:
        for places in _batches(in_order(heatmap, threshold, bar)):
            writer.write_table(pa.table(_columns(heatmap, places), schema=schema))
            count += len(places[0])
    return count


def write_regions_parquet(path: Path, heatmap: Heatmap, regions: Sequence[Region]) -> None:
    """Write the measures of regions; needs pyarrow. Raises WriteError."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"region": pa.int32(), "size_class": pa.string()}
    schema = pa.schema(
        [(name, kinds.get(name, pa.float64())) for name in COLUMNS],
        {"slidescan": json.dumps(origin(heatmap))},
    )
    table = [dict(zip(COLUMNS, row, strict=True)) for row in rows(regions)]
    with replacing(path) as beside:
        parquet.write_table(pa.Table.from_pylist(table, schema), beside)


def _columns(heatmap: Heatmap, places: Places) -> Columns:
    """The columns of CELL_COLUMNS."""
    row, column, values = places
    cell_um = heatmap.mpp * heatmap.grid.stride
    x_pitch, y_pitch = pitch_l0(heatmap)
    centres = (
        (column + 0.5) * x_pitch,
        (row + 0.5) * y_pitch,
        (column + 0.5) * cell_um,
        (row + 0.5) * cell_um,
    )
    rounded = (each.round(2) for each in centres)
    # As float64: rounded in float32, 0.9 would be written as 0.8999999761581421.
    p = values.astype(np.float64).round(6)
    return dict(zip(CELL_COLUMNS, (row, column, *rounded, p), strict=True))


def _batches(parts: Iterator[Places]) -> Iterator[Places]:
    """Join parts to at least BATCH cells, but for the last."""
    held: list[Places] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part[0])
        if count >= BATCH:
            yield _joined(held)
            held, count = [], 0
    if held:
        yield _joined(held)


def _joined(parts: list[Places]) -> Places:
    row, column, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    return row, column, values
