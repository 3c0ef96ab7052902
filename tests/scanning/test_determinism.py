"""The same slide, model and settings give the same bits, however the work is divided."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import slides
from commands import ran
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import read
from numpy.typing import NDArray

import slidescan
from slidescan.engines import engine_pool
from slidescan.maps import layout, ngff
from slidescan.maps.store import Heatmap
from slidescan.protocols import BATCH
from slidescan.scanning import pipeline
from slidescan.slides.plane import Plane


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    slides.write_slide(path, slides.section(420, 500), mpp=0.5, levels=(2,))
    return path


@pytest.fixture
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 cells and tiles of 8: some sixteen tiles, three blocks of them a row."""
    monkeypatch.setattr(layout, "BLOCK_CELLS", 16)
    monkeypatch.setattr(layout, "CHUNK_CELLS", 16)
    monkeypatch.setattr(ngff, "LEVEL_CELLS", 16)


def scan(slide: Path, out: Path, model: Path, engine: str, threads: int = 1) -> NDArray[np.float32]:
    ran(
        *("heatmap", slide, "--model", model, "--engine", engine, "--threads", threads),
        *("--no-tissue-mask", "--out", out),
    )
    return read(out)


@pytest.fixture(params=["openvino", "torch"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.usefixtures("few_cells")
def test_threads_lanes_and_runs_change_no_bit(
    slide: Path,
    tiny_model: Path,
    tmp_path: Path,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "TILE_PX", 64)
    first = scan(slide, tmp_path / "a.zarr", tiny_model, engine)
    assert np.isfinite(first).all()
    assert scan(slide, tmp_path / "b.zarr", tiny_model, engine).tobytes() == first.tobytes()
    monkeypatch.setattr(engine_pool, "CPU_LANES", 2)
    assert scan(slide, tmp_path / "c.zarr", tiny_model, engine, 3).tobytes() == first.tobytes()


@pytest.mark.usefixtures("few_cells")
def test_the_order_in_which_reads_end_changes_no_bit(
    slide: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "TILE_PX", 64)
    first = scan(slide, tmp_path / "a.zarr", tiny_model, "torch")
    real, lock, delays = Plane.read_with_gaps, threading.Lock(), iter(_delays())

    def late(self: Plane, box: object) -> object:
        with lock:
            delay = next(delays)
        time.sleep(delay)
        return real(self, box)  # type: ignore[arg-type]

    monkeypatch.setattr(Plane, "read_with_gaps", late)
    assert scan(slide, tmp_path / "b.zarr", tiny_model, "torch", 4).tobytes() == first.tobytes()


def _delays() -> Iterator[float]:
    rng = np.random.default_rng(0)
    while True:
        yield float(rng.uniform(0, 0.005))


@pytest.mark.usefixtures("few_cells")
def test_the_size_of_tiles_changes_the_last_digits_at_most(
    slide: Path, tiny_model: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A convolution may add in another order for another shape; maps record the size of tiles."""
    found = []
    for tile_px in (64, 128, 1024):
        monkeypatch.setattr(pipeline, "TILE_PX", tile_px)
        found.append(scan(slide, tmp_path / f"{tile_px}.zarr", tiny_model, engine))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("few_cells")
def test_a_scan_in_any_parts_by_any_threads_is_the_same_bits(
    slide: Path, tiny_model: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part has its own threads and lanes, and is stopped as it writes a block."""
    monkeypatch.setattr(pipeline, "TILE_PX", 64)
    whole = scan(slide, tmp_path / "whole.zarr", tiny_model, engine).tobytes()

    @settings(max_examples=4, derandomize=True)
    @given(parts=st.lists(PART, min_size=1, max_size=2), last=PART)
    def each(parts: list[Part], last: Part) -> None:
        with TemporaryDirectory(dir=tmp_path) as folder:
            out = Path(folder, "map.zarr")
            for part in parts:
                with stopped_after(part.blocks), suppress(KeyboardInterrupt):
                    part.scan(slide, out, tiny_model, engine)
            last.scan(slide, out, tiny_model, engine)
            assert read(out).tobytes() == whole

    each()


@dataclass(frozen=True)
class Part:
    """A run of a scan: how it divides its work, and after how many blocks it stops."""

    threads: int
    lanes: int
    cache: bool
    blocks: int

    def scan(self, slide: Path, out: Path, model: Path, engine: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_pool, "CPU_LANES", self.lanes)
            slidescan.scan(
                slide,
                out,
                model,
                engine=engine,  # type: ignore[arg-type]
                threads=self.threads,
                cache=self.cache,
                tissue_mask=False,
            )


PART = st.builds(
    Part, st.integers(1, 4), st.integers(1, 3), cache=st.booleans(), blocks=st.integers(0, 5)
)


@contextmanager
def stopped_after(blocks: int) -> Iterator[None]:
    real, written = Heatmap.write, count()

    def write(self: Heatmap, *arguments: Any) -> None:
        if next(written) >= blocks:
            raise KeyboardInterrupt
        real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Heatmap, "write", write)
        yield


def test_the_number_of_patches_in_a_batch_is_fixed() -> None:
    """Maps and tables record it, since another one may change the last digits."""
    assert BATCH == 64
