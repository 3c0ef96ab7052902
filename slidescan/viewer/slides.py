"""Answers about slides: the list, a slide's description, its tiles and its annotations."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from slidescan.viewer.catalogue import SlideEntry
from slidescan.viewer.descriptions import describe_map, list_map
from slidescan.viewer.state import State

PICTURE = {"cache-control": "private, max-age=3600"}
"""Of pictures: their address changes when the slide's file does."""


class SlideAnswers:
    """Each method answers one address. They read files, so they run in threads."""

    def __init__(self, state: State) -> None:
        self.state = state

    def slides(self, request: Request) -> Response:
        """All slides and their maps, without opening any."""
        catalogue = self.state.catalogue
        return JSONResponse(
            {
                "title": catalogue.title,
                "folder": catalogue.folder,
                "slides": [self._listed(entry) for entry in catalogue.slides()],
                "warnings": catalogue.problems,
            },
            headers={"cache-control": "no-store"},
        )

    def _listed(self, entry: SlideEntry) -> dict[str, Any]:
        found: dict[str, Any] = {"id": entry.id, "name": entry.name, "state": "ok"}
        if entry.error:
            found |= {"state": "error", "error": entry.error}
        found["thumbnail"] = None if entry.error else f"api/slides/{entry.id}/thumbnail.jpg"
        found["maps"] = [list_map(each, self.state.highest(each)) for each in entry.maps]
        return found

    def slide(self, request: Request) -> Response:
        """One slide: extent, levels, resolution, maps, annotations, warnings."""
        entry = self._entry(request)
        opened = self.state.opened(entry)
        maps, problems = self.state.fitting(entry)
        described = [describe_map(each, self.state.models) for each in maps]
        return JSONResponse(
            {
                "id": entry.id,
                "name": entry.name,
                **opened.describe(),
                "maps": described,
                "annotations": [
                    {"id": str(i), "name": path.name} for i, path in enumerate(entry.annotations)
                ],
                "warnings": [*opened.warnings, *problems],
            },
            headers={"cache-control": "no-store"},
        )

    def tile(self, request: Request) -> Response:
        """A tile as JPEG; 404 where there is none."""
        place = (request.path_params[name] for name in ("level", "column", "row"))
        picture = self.state.opened(self._entry(request)).tile(*place)
        if picture is None:
            raise HTTPException(404, "the slide has no such tile")
        return Response(picture, media_type="image/jpeg", headers=PICTURE)

    def thumbnail(self, request: Request) -> Response:
        """A small picture of the slide."""
        picture = self.state.opened(self._entry(request)).thumbnail()
        return Response(picture, media_type="image/jpeg", headers=PICTURE)

    def annotations(self, request: Request) -> Response:
        """The outlines of one file of annotations."""
        entry = self._entry(request)
        path = entry.annotation(request.path_params["annotation"])
        if path is None:
            raise HTTPException(404, "no such annotations were named")
        from slidescan.viewer.areas import annotations_of

        height, width = self.state.opened(entry).slide.extent_l0
        found = annotations_of(path, (width, height))
        return JSONResponse(found, headers={"cache-control": "no-store"})

    def _entry(self, request: Request) -> SlideEntry:
        entry = self.state.catalogue.slide(request.path_params["slide"])
        if entry is None:
            raise HTTPException(404, "no such slide was named")
        if entry.error:
            raise HTTPException(404, entry.error)
        return entry
