"""Answers about maps: description, tiles, histogram, cells, patches, regions, tissue, progress."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from slidescan.errors import MapError
from slidescan.viewer.cache import Cache
from slidescan.viewer.catalogue import MapEntry, SlideEntry
from slidescan.viewer.descriptions import describe_map
from slidescan.viewer.state import State

if TYPE_CHECKING:
    from slidescan.viewer.watched import Progress, Watched

NOW = {"cache-control": "no-store"}
"""Of what changes while a map is written."""

THRESHOLDS = 16
"""Thresholds whose regions are kept."""

TELL_S = 5.0
"""Progress is told this often, without a new block as well: the time left changes, and proxies
close a connection that says nothing for a minute."""


class MapAnswers:
    """Each method answers one address. All but `events` read files, so they run in threads."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._regions = Cache[dict[str, Any]](THRESHOLDS)

    def map(self, request: Request) -> Response:
        """Grid, levels, model and state."""
        _, entry = self._entry(request)
        found = describe_map(entry, self.state.models)
        return JSONResponse(found | {"version": self.state.watched(entry).version}, headers=NOW)

    def tile(self, request: Request) -> Response:
        """Values and coverage of a tile; 404 where there is none."""
        watched = self.state.watched(self._entry(request)[1])
        place = (request.path_params[name] for name in ("level", "column", "row"))
        tile = watched.tile(*place)
        if tile is None:
            raise HTTPException(404, "the map has no such tile")
        rows, columns = tile.values.shape
        content = tile.values.astype("<f4").tobytes() + tile.coverage.tobytes()
        headers = {"x-rows": str(rows), "x-columns": str(columns), "x-version": str(tile.version)}
        return Response(content, media_type="application/octet-stream", headers=NOW | headers)

    def histogram(self, request: Request) -> Response:
        """How many cells have a value in each bin."""
        version, counts, _ = self.state.watched(self._entry(request)[1]).statistics()
        edges = [bin_ / len(counts) for bin_ in range(len(counts) + 1)]
        found = {"version": version, "edges": edges, "counts": counts.tolist()}
        return JSONResponse(found, headers=NOW)

    def cell(self, request: Request) -> Response:
        """The cell that covers a position, its value and its centre."""
        _, entry = self._entry(request)
        row, column = self._place(request, entry)
        heatmap = self.state.watched(entry).heatmap
        cell_um = heatmap.mpp * heatmap.grid.stride
        found = {
            "row": row,
            "column": column,
            "p": self.state.watched(entry).value(row, column),
            "x_um": (column + 0.5) * cell_um,
            "y_um": (row + 0.5) * cell_um,
        }
        return JSONResponse(found, headers=NOW)

    def patch(self, request: Request) -> Response:
        """What the patch classifier says now, beside the map's value; 409 where there is none."""
        slide, entry = self._entry(request)
        row, column = self._place(request, entry)
        watched = self.state.watched(entry)
        there = watched.value(row, column)
        if there is None:
            raise HTTPException(409, f"cell ({row}, {column}) was not scanned")
        from slidescan.viewer.patch import box_l0

        here = self.state.classifier(slide, entry).score(row, column)
        found = {
            "row": row,
            "column": column,
            "map_p": there,
            "patch_p": here,
            "difference": abs(there - here),
            "box": box_l0(watched.heatmap, row, column),
        }
        return JSONResponse(found, headers=NOW)

    def regions(self, request: Request) -> Response:
        """The regions from a threshold on: a probability, or the name of an operating point."""
        from slidescan.viewer.areas import regions_of

        _, entry = self._entry(request)
        watched = self.state.watched(entry)
        threshold = self._threshold(request, entry)
        key = entry.id, watched.version, threshold
        found = self._regions.get(key, lambda: regions_of(watched.heatmap, threshold))
        return JSONResponse(found, headers=NOW)

    def _threshold(self, request: Request, entry: MapEntry) -> float:
        given = request.query_params.get("threshold", "0.5")
        named = describe_map(entry, self.state.models)["thresholds"]
        try:
            value: float = named[given] if given in named else float(given)
        except ValueError:
            known = f"or one of {', '.join(named)}" if named else "the model has no named ones"
            raise HTTPException(400, f"threshold {given[:40]}: not a number; {known}") from None
        if not 0 < value <= 1:
            raise HTTPException(400, f"threshold {given[:40]}: expected a probability above 0")
        return value

    def tissue(self, request: Request) -> Response:
        """The outlines of what was selected for scanning."""
        from slidescan.viewer.areas import tissue_of

        outlines = tissue_of(self.state.watched(self._entry(request)[1]).heatmap)
        return JSONResponse({"outlines": outlines}, headers=NOW)

    async def events(self, request: Request) -> Response:
        """Progress as server-sent events, until the map is complete."""
        _, entry = self._entry(request)
        watched = await anyio.to_thread.run_sync(self.state.watched, entry)
        headers = NOW | {"x-accel-buffering": "no"}
        return StreamingResponse(
            _stream(watched, self.state), media_type="text/event-stream", headers=headers
        )

    def _entry(self, request: Request) -> tuple[SlideEntry, MapEntry]:
        found = self.state.catalogue.map(request.path_params["map"])
        if found is None:
            raise HTTPException(404, "no such map was named")
        return found

    def _place(self, request: Request, entry: MapEntry) -> tuple[int, int]:
        """The cell (row, column) that covers the position x, y of the query, level-0 px."""
        try:
            x, y = (float(request.query_params[name]) for name in "xy")
        except (KeyError, ValueError):
            raise HTTPException(400, "expected x and y, in level-0 px") from None
        heatmap = self.state.watched(entry).heatmap
        cell_um, (mpp_y, mpp_x) = heatmap.mpp * heatmap.grid.stride, entry.slide.mpp
        rows, columns = heatmap.grid.shape
        row, column = y * mpp_y / cell_um, x * mpp_x / cell_um
        if not (0 <= row < rows and 0 <= column < columns):  # NaN is in no range
            raise HTTPException(404, "outside the map")
        return int(row), int(column)


async def _stream(watched: Watched, state: State) -> AsyncIterator[str]:
    """An event at once, and one for each poll that finds something new."""
    from slidescan.viewer.watched import POLL_S

    since, silent_s = 0, 0.0
    while not state.closing:
        # A map that is being replaced cannot be read for a moment.
        with suppress(MapError):
            now = await anyio.to_thread.run_sync(watched.progress, since)
            if now.version > since or silent_s >= TELL_S:
                since, silent_s = now.version, 0.0
                yield _event(now)
                if now.complete:
                    return
        await anyio.sleep(POLL_S)
        silent_s += POLL_S


def _event(now: Progress) -> str:
    data = {
        "version": now.version,
        "done": now.done,
        "total": now.total,
        "seconds_left": now.seconds_left,
        "complete": now.complete,
        "boxes": [[box.y0, box.x0, box.y1, box.x1] for box in now.boxes],
    }
    return f"event: progress\ndata: {json.dumps(data, allow_nan=False)}\n\n"
