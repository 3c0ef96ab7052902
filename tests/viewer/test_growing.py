"""A map that is being written fills in block by block, and nothing half written is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient
from viewing import ask, begin, cells, finish, map_of, whole

from slidescan.maps.store import Heatmap
from slidescan.viewer import watched
from slidescan.viewer.watched import Watched

Values = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    monkeypatch.setattr(watched, "POLL_S", 0.0)
    monkeypatch.setattr("slidescan.maps.ngff.LEVEL_CELLS", 32)


@pytest.fixture
def growing(section: Path, tmp_path: Path) -> Iterator[tuple[Heatmap, Values]]:
    made, values = begin(tmp_path / "map.zarr", section)
    with made:
        yield made, values


def write(made: Heatmap, values: Values, count: int) -> Values:
    """Write the next blocks; the values that are there now."""
    for block in list(made.missing())[:count]:
        made.write(block, values[block.slices])
    there = np.full_like(values, np.nan)
    for block in made.blocks():
        if made.done(block):
            there[block.slices] = values[block.slices]
    return there


def events(client: TestClient) -> list[dict[str, Any]]:
    """All events of a finished map."""
    text = client.get(f"{map_of(client)}/events").text
    return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]


def test_blocks_appear_as_they_are_finished(growing: tuple[Heatmap, Values], section: Path) -> None:
    made, values = growing
    with ask(section, made.path) as client:
        versions = []
        for _ in range(3):
            there = write(made, values, 2)
            found, coverage = cells(client, f"{map_of(client)}/tiles/0/0_0")
            assert np.array_equal(found, there, equal_nan=True)
            assert np.array_equal(coverage, np.where(np.isfinite(there), 255, 0))
            described = client.get(map_of(client)).json()
            assert not described["complete"]
            versions.append(described["version"])
            counts = client.get(f"{map_of(client)}/histogram").json()["counts"]
            assert sum(counts) == np.count_nonzero(np.isfinite(there))
        assert versions == sorted(set(versions))


def test_coarse_levels_of_an_unfinished_map_are_those_it_will_have(
    growing: tuple[Heatmap, Values], section: Path
) -> None:
    made, values = growing
    write(made, values, 3)
    with ask(section, made.path) as client:
        before = [cells(client, f"{map_of(client)}/tiles/{n}/0_0")[0] for n in (1, 2)]
        while any(made.missing()):
            write(made, values, 4)
            coarse = [cells(client, f"{map_of(client)}/tiles/{n}/0_0")[0] for n in (1, 2)]
        assert not np.array_equal(before[0], coarse[0], equal_nan=True)
        finish(made, values)
        for level in (1, 2):
            assert np.array_equal(coarse[level - 1], whole(made, level), equal_nan=True)
            found, _ = cells(client, f"{map_of(client)}/tiles/{level}/0_0")
            assert np.array_equal(found, whole(made, level), equal_nan=True)


def test_a_shard_that_is_not_done_is_not_shown(
    growing: tuple[Heatmap, Values], section: Path
) -> None:
    made, values = growing
    write(made, values, 4)
    shards = sorted((made.path / "0" / "c").rglob("[0-9]*"))
    torn = [path for path in shards if path.is_file()][:2]
    torn[0].write_bytes(torn[0].read_bytes()[:-40])
    torn[1].with_name("7.partial").write_bytes(b"half")
    with ask(section, made.path) as client:
        found, _ = cells(client, f"{map_of(client)}/tiles/0/0_0")
        row, column = int(torn[0].parent.name), int(torn[0].name)
        here = slice(row * 32, row * 32 + 32), slice(column * 32, column * 32 + 32)
        assert np.isnan(found[here]).all()
        assert np.isfinite(found).any()
        write(made, values, 1)  # the store scans it again
        found, _ = cells(client, f"{map_of(client)}/tiles/0/0_0")
        assert np.array_equal(found[here], values[here], equal_nan=True)


def test_cells_whose_pixels_are_missing_do_not_hold_a_block_back(
    growing: tuple[Heatmap, Values], section: Path
) -> None:
    made, values = growing
    write(made, values, 1)
    shown = Watched(made.path)
    (block, *_) = made.missing()
    gaps = np.zeros(block.shape, np.bool_)
    gaps[3:5, 6:9] = True
    made.write(block, np.where(gaps, np.float32(np.nan), values[block.slices]), gaps)
    assert block in shown.progress(shown.version).boxes


def test_progress_tells_what_is_new_and_ends_with_the_scan(
    growing: tuple[Heatmap, Values], section: Path
) -> None:
    made, values = growing
    shown = Watched(made.path)
    first = shown.progress(0)
    assert (first.done, first.complete, first.seconds_left) == (0, False, None)
    assert first.total == np.count_nonzero(np.isfinite(values))
    there = write(made, values, 5)
    second = shown.progress(first.version)
    assert second.done == np.count_nonzero(np.isfinite(there))
    assert len(second.boxes) == 5 - (values[:32, :25].size == 0)
    assert second.seconds_left is not None
    assert shown.progress(second.version).boxes == []
    write(made, values, 99)
    assert not shown.progress(second.version).complete
    finish(made, values)
    last = shown.progress(second.version)
    assert last.complete
    assert last.done == last.total == first.total
    with ask(section, made.path) as client:
        (event,) = events(client)
    assert event["complete"]
    assert event["boxes"] == [[0, 0, *values.shape]]


def test_a_map_that_is_replaced_is_drawn_anew(
    growing: tuple[Heatmap, Values], section: Path
) -> None:
    made, values = growing
    finish(made, values)
    with ask(section, made.path) as client:
        before, _ = cells(client, f"{map_of(client)}/tiles/0/0_0")
        again, other = begin(made.path, section, {"tta": "d4"})
        with again:
            there = write(again, 1 - other, 2)
            found, _ = cells(client, f"{map_of(client)}/tiles/0/0_0")
    assert np.array_equal(found, there, equal_nan=True)
    assert not np.array_equal(found, before, equal_nan=True)


def test_a_lost_shard_of_a_finished_map_is_an_error_and_the_rest_is_shown(
    growing: tuple[Heatmap, Values], section: Path
) -> None:
    made, values = growing
    finish(made, values)
    lost = made.path / "0" / "c" / "1" / "1"
    lost.write_bytes(b"damaged")
    with ask(section, made.path) as client:
        answer = client.get(f"{map_of(client)}/tiles/0/0_0")
        assert answer.status_code == 503
        assert "damaged" in answer.json()["error"]
        assert client.get(f"{map_of(client)}/tiles/1/0_0").status_code == 200
        counts = client.get(f"{map_of(client)}/histogram").json()["counts"]
        assert sum(counts) == np.count_nonzero(np.isfinite(values)) - 32 * 32
