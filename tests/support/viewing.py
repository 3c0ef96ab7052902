"""A viewer asked without a network, what it answers, and a map that grows before its eyes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from slidescan.geometry import Box, Grid
from slidescan.maps.store import Heatmap
from slidescan.slides.slide import Slide
from slidescan.viewer.app import make_app
from slidescan.viewer.catalogue import Catalogue, sort_paths
from slidescan.viewer.state import State

HOST = "http://127.0.0.1:8765"
MPP = 0.972


def ask(
    *paths: Path,
    annotations: tuple[Path, ...] = (),
    mpp: float | None = None,
    models: tuple[str, ...] = (),
    **more: Any,
) -> TestClient:
    """A viewer of these paths; `more` is for `make_app`."""
    state = State(Catalogue(sort_paths(paths, annotations, mpp)), models)
    return TestClient(make_app(state, **more), HOST)


def described(client: TestClient, place: int = 0) -> dict[str, Any]:
    """The description of a slide, by its place in the list."""
    entry = client.get("/api/slides").json()["slides"][place]
    found: dict[str, Any] = client.get(f"/api/slides/{entry['id']}").json()
    return found


def map_of(client: TestClient) -> str:
    """The address of the first slide's first map."""
    entry = client.get("/api/slides").json()["slides"][0]
    return f"/api/maps/{entry['maps'][0]['id']}"


def picture(client: TestClient, address: str) -> NDArray[np.uint8]:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def cells(client: TestClient, address: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Values and coverage of a map tile."""
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    rows, columns = int(answer.headers["x-rows"]), int(answer.headers["x-columns"])
    values = np.frombuffer(answer.content[: 4 * rows * columns], "<f4").reshape(rows, columns)
    coverage = np.frombuffer(answer.content[4 * rows * columns :], np.uint8)
    return values, coverage.reshape(rows, columns)


def begin(
    path: Path, slide_path: Path, settings: dict[str, Any] | None = None
) -> tuple[Heatmap, NDArray[np.float32]]:
    """Create the map of a slide, open for writing, and draw the values that its cells will have."""
    with Slide.open(slide_path) as slide:
        grid = Grid(slide.plane(MPP).shape_px)
        of_slide = {
            "fingerprint": slide.fingerprint,
            "mpp": list(slide.mpp),
            "extent_l0": list(slide.extent_l0),
        }
    values = np.random.default_rng(0).random(grid.shape, np.float32)
    mask = np.ones(grid.shape, np.bool_)
    mask[:21, :25] = False
    values[~mask] = np.nan
    made = Heatmap.create(
        path,
        overwrite=True,
        grid=grid,
        mpp=MPP,
        mask=mask,
        settings={"slide": of_slide, "model": {"name": "tiny", "sha256": "ab" * 32}}
        | (settings or {}),
        provenance={"slide": slide_path.name},
    )
    return made, values


def finish(made: Heatmap, values: NDArray[np.float32]) -> None:
    """Write the blocks that are missing, and the coarser levels."""
    for block in list(made.missing()):
        made.write(block, values[block.slices])
    made.finish({})
    made.close()


def whole(made: Heatmap, level: int) -> NDArray[np.float32]:
    """All cells of a level."""
    return made.read(Box(0, 0, *made.shapes[level]), level)
