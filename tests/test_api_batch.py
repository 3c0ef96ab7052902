"""`slidescan.scan_many`: the same maps, manifest and states as the command's."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import slides
from commands import ran

import slidescan
from slidescan.api.batch import ScanOptions

MPP = 0.972


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two slides that can be scanned and a file that is none."""
    made = tmp_path / "slides"
    made.mkdir()
    for name, side in (("a", 260), ("c", 300)):
        slides.write_slide(made / f"{name}.tif", slides.checkerboard(side, side), mpp=MPP)
    (made / "b.tif").write_bytes(b"no slide")
    return made


def test_each_slide_has_a_result_in_the_order_of_the_list(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    seen: list[slidescan.SlideResult] = []
    out = tmp_path / "maps"
    found = slidescan.scan_many(
        folder, out, tiny_model, on_slide=seen.append, engine="torch", threads=1, tissue_mask=False
    )
    assert [each.slide.name for each in found] == ["a.tif", "b.tif", "c.tif"]
    assert [each.state for each in found] == ["done", "failed", "done"]
    assert "not a slide" in found[1].reason or "OpenSlide" in found[1].reason
    assert sorted(seen, key=lambda each: each.slide) == found
    again = slidescan.scan_many(
        [str(folder)], str(out), [tiny_model], engine="torch", threads=1, tissue_mask=False
    )
    assert [each.state for each in again] == ["kept", "failed", "kept"]

    ran(
        *("heatmap", folder / "c.tif", "--model", tiny_model, "--engine", "torch"),
        *("--threads", "1", "--no-tissue-mask", "--out", tmp_path / "single.zarr"),
    )
    single = slidescan.open_map(tmp_path / "single.zarr")
    np.testing.assert_array_equal(slidescan.open_map(found[2].map).values, single.values)


def test_a_part_of_the_slides_and_those_in_a_state(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    (found,) = slidescan.scan_many(folder, out, tiny_model, shard=(2, 3), engine="torch", threads=1)
    assert found.state == "failed"
    (found,) = slidescan.scan_many(
        folder, out, tiny_model, retry="failed", engine="torch", threads=1
    )
    assert found.slide == folder / "b.tif"
    with pytest.raises(slidescan.SlidescanError, match=r"shard=\(0, 3\): no part"):
        slidescan.scan_many(folder, out, tiny_model, shard=(0, 3))


def test_what_is_wrong_with_all_slides_is_raised_before_a_folder_is_made(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    (tmp_path / "empty").mkdir()
    with pytest.raises(slidescan.SlidescanError, match="no-such-model"):
        slidescan.scan_many(folder, out, "no-such-model")
    with pytest.raises(slidescan.SlidescanError, match="holds no slides"):
        slidescan.scan_many(tmp_path / "empty", out)
    assert not out.exists()


def test_it_has_the_options_of_scan() -> None:
    options = inspect.signature(slidescan.scan).parameters
    ours = {name for name, each in options.items() if each.kind is each.KEYWORD_ONLY}
    assert ScanOptions.__annotations__.keys() == ours - {"progress"}
