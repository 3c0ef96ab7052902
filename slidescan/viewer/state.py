"""What a running viewer keeps open, bounded: slides, maps, pictures and classifiers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from slidescan.errors import MapError, SlideError, SlidescanError
from slidescan.viewer.cache import Cache
from slidescan.viewer.catalogue import Catalogue, MapEntry, SlideEntry, check_slide_of
from slidescan.viewer.descriptions import describe_map
from slidescan.viewer.opened import Kept, Opened

if TYPE_CHECKING:
    from slidescan.viewer.patch import PatchClassifier
    from slidescan.viewer.watched import Watched

SLIDES = 8
"""Slides that stay open: each has a cache of decoded tiles of 32 MB in OpenSlide."""

MAPS = 8
CLASSIFIERS = 2


class State:
    """Opens what is asked for and closes what was not used for longest. For many threads.

    A slide closes when the last thread that reads from it is done.
    """

    def __init__(self, catalogue: Catalogue, models: tuple[str, ...] = ()) -> None:
        self.catalogue = catalogue
        self.models = models
        self.closing = False
        """The server ends: answers that tell of progress do, too."""
        self._kept = Kept()
        self._slides = Cache[Opened](SLIDES)
        self._maps = Cache["Watched"](MAPS)
        self._classifiers = Cache["PatchClassifier"](CLASSIFIERS)
        self._highest: dict[str, float | None] = {}
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "highest")

    def close(self) -> None:
        """Stop reading maps."""
        self._reader.shutdown(cancel_futures=True)

    def check(self) -> None:
        """Refuse a slide that cannot be opened, a map of another one, or nothing to show.

        Of many slides, each says what is wrong with it when it is opened.

        Raises:
            SlideError: the one slide cannot be opened, or there is none.
            MapError: a map was made from another slide.
        """
        entries = self.catalogue.slides()
        if not entries:
            (*_, last) = self.catalogue.named.folders
            raise SlideError(f"{last}: holds neither slides nor maps; name another folder")
        if self.catalogue.named.single:
            for entry in entries:
                fingerprint = self.opened(entry).slide.fingerprint
                for each in entry.maps:
                    check_slide_of(each, entry.path, fingerprint)

    def warm(self) -> None:
        """Make what the page asks for first, while the browser starts: the one slide and its maps.

        What cannot be read says so when it is asked for.
        """
        if not self.catalogue.named.single:
            return
        with suppress(SlidescanError):
            for entry in self.catalogue.slides():
                self.opened(entry).tile(0, 0, 0)
                for each in self.fitting(entry)[0]:
                    describe_map(each, self.models)
                    self.watched(each)

    def opened(self, entry: SlideEntry) -> Opened:
        """The open slide. Raises SlideError."""
        mpp = self.catalogue.named.mpp or _recorded_mpp(entry)
        return self._slides.get(
            entry.id, lambda: Opened.open(entry.id, entry.path, mpp, self._kept)
        )

    def fitting(self, entry: SlideEntry) -> tuple[list[MapEntry], list[str]]:
        """The maps that were made from this very slide, and a line for each other one.

        Raises SlideError.
        """
        fingerprint = self.opened(entry).slide.fingerprint
        maps, lines = [], []
        for each in entry.maps:
            try:
                check_slide_of(each, entry.path, fingerprint)
                maps.append(each)
            except MapError as error:
                lines.append(str(error))
        return maps, lines

    def highest(self, entry: MapEntry) -> float | None:
        """The highest value of a finished map; None until it is known, which reads all of it."""
        if not entry.record.complete or entry.highest is not None:
            return entry.highest
        with self._lock:
            if entry.id in self._highest:
                return self._highest[entry.id]
            self._highest[entry.id] = None
        self._reader.submit(self._find_highest, entry)
        return None

    def _find_highest(self, entry: MapEntry) -> None:
        with suppress(MapError):  # opening it says what is wrong
            self._highest[entry.id] = self.watched(entry).statistics()[2]

    def watched(self, entry: MapEntry) -> Watched:
        """The open map. Raises MapError."""
        from slidescan.viewer.watched import Watched  # zarr, which the first picture can do without

        return self._maps.get(entry.id, lambda: Watched(entry.path))

    def classifier(self, slide: SlideEntry, entry: MapEntry) -> PatchClassifier:
        """The classifier that made a map. Raises SlidescanError."""
        from slidescan.viewer.patch import PatchClassifier

        watched = self.watched(entry)
        key = entry.id, str(watched.heatmap.settings)  # the map may be replaced
        return self._classifiers.get(
            key, lambda: PatchClassifier(watched.heatmap, slide.path, self.models)
        )


def _recorded_mpp(entry: SlideEntry) -> float | None:
    """The resolution that a map was made with, for a slide that may record none."""
    for each in entry.maps:
        mpp_y, mpp_x = each.slide.mpp
        if mpp_y == mpp_x:
            return mpp_y
    return None
