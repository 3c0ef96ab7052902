"""`slidescan export csv` and `parquet`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ran, refused, run
from lesions import UM, Values, disc
from pyarrow import parquet
from slide_study import write_map

from slidescan.exports import tables
from slidescan.exports.region_tables import COLUMNS


@pytest.fixture(scope="module")
def values() -> Values:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 0.4, (300, 270)).astype(np.float32)  # four blocks
    values[disc(values.shape, 250, 200, 30)] += 0.5
    values[:220, :150] = values[:200] = np.nan
    return values


@pytest.fixture(scope="module")
def map_path(tmp_path_factory: pytest.TempPathFactory, values: Values) -> Path:
    return write_map(tmp_path_factory.mktemp("tables") / "map.zarr", values)


def test_every_cell_with_a_value_is_in_the_table(
    map_path: Path, tmp_path: Path, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH", 10_000)
    ran("export", "csv", map_path, "--of", "cells", "--out", tmp_path / "cells.csv")
    ran("export", "parquet", map_path, "--of", "cells", "--out", tmp_path / "cells.parquet")

    with (tmp_path / "cells.csv").open() as file:
        found = np.array(list(csv.reader(file))[1:], float)
    table = parquet.read_table(tmp_path / "cells.parquet")
    for name, column in zip(tables.CELL_COLUMNS, found.T, strict=True):
        assert np.array_equal(table[name].to_numpy().astype(np.float32), column.astype(np.float32))
    back = np.full(values.shape, np.nan)
    rows, columns = found[:, 0].astype(int), found[:, 1].astype(int)
    back[rows, columns] = found[:, 6]
    assert len(found) == np.isfinite(values).sum()
    assert np.allclose(back, values, atol=5e-7, equal_nan=True)
    assert np.array_equal(found[:, 2], (columns + 0.5) * 15)
    assert np.array_equal(found[:, 3], (rows + 0.5) * 30)
    assert np.allclose(found[:, 4], (columns + 0.5) * UM, atol=0.006)
    assert np.allclose(found[:, 5], (rows + 0.5) * UM, atol=0.006)
    about = json.loads(table.schema.metadata[b"slidescan"])
    assert about["slide"] == "map.tif"
    assert parquet.ParquetFile(tmp_path / "cells.parquet").num_row_groups > 1


def test_cells_from_a_threshold_up(map_path: Path, tmp_path: Path, values: Values) -> None:
    out = tmp_path / "hot.parquet"
    result = ran("export", "parquet", map_path, "--of", "cells", "--threshold", 0.5, "--out", out)
    count = int((values >= 0.5).sum())
    assert f"{count:,} cells from 0.5 up" in result.stdout
    assert parquet.read_table(out).num_rows == count


def test_regions_are_the_same_in_all_tables(map_path: Path, tmp_path: Path) -> None:
    ran("regions", map_path, "--out", tmp_path / "a.csv")
    ran("export", "csv", map_path, "--out", tmp_path / "b.csv")
    ran("export", "parquet", map_path, "--out", tmp_path / "c.parquet")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    (row,) = parquet.read_table(tmp_path / "c.parquet").to_pylist()
    with (tmp_path / "b.csv").open() as file:
        assert [{k: str(v) for k, v in row.items()}] == list(csv.DictReader(file))


def test_nothing_above_the_threshold_is_an_empty_table(map_path: Path, tmp_path: Path) -> None:
    for content, columns in (("cells", tables.CELL_COLUMNS), ("regions", tuple(COLUMNS))):
        given = ("--of", content, "--threshold", 0.99, "--out")
        ran("export", "parquet", map_path, *given, tmp_path / f"{content}.parquet")
        table = parquet.read_table(tmp_path / f"{content}.parquet")
        assert table.num_rows == 0
        assert tuple(table.column_names) == columns
        ran("export", "csv", map_path, *given, tmp_path / f"{content}.csv")
        assert (tmp_path / f"{content}.csv").read_text().strip() == ",".join(columns)


def test_a_missing_library_is_named(
    map_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(
        run("export", "parquet", map_path, "--out", tmp_path / "map.parquet"),
        "Parquet needs pyarrow",
        "-m pip install",
    )
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_refused(map_path: Path, tmp_path: Path) -> None:
    refused(run("export", "csv", map_path, "--out", tmp_path / "map.txt"), ".csv")
    cells = run(
        "export", "csv", map_path, "--of", "cells", "--low", 0.1, "--out", tmp_path / "map.csv"
    )
    assert cells.exit_code == 2
    assert "--low is for regions" in cells.stderr
    unknown = run("export", "xlsx", map_path)
    assert unknown.exit_code == 2
    assert "geojson" in unknown.stderr
    (tmp_path / "map.csv").write_text("precious")
    refused(run("export", "csv", map_path, "--out", tmp_path / "map.csv"), "--overwrite")
