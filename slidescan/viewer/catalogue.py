"""What a viewer offers: the slides and maps named on the command line, and no other file.

A map belongs to the slide whose file name it records. Where one slide was named, all maps belong to
it, whatever its file is called now. Fingerprints decide when the slide is opened.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from slidescan.errors import MapError, SlideError, SlidescanError
from slidescan.maps.finished import SlideSettings, read_checked_record
from slidescan.maps.places import resolved as resolved_place
from slidescan.maps.record import Record
from slidescan.slides.finding import find_slides
from slidescan.slides.fingerprint import same_slide
from slidescan.tools.urls import Place, Url

ANNOTATIONS = frozenset({".xml", ".json", ".geojson"})

LISTED_S = 2.0
"""A folder is listed again after this time, or later if listing it takes long."""

BUSY_SHARE = 0.05
"""The share of the time that may go into listing."""


Rows: TypeAlias = Mapping[Place, Mapping[str, str]]
"""Of manifests."""


@dataclass(frozen=True, slots=True)
class Named:
    """The paths of the command line."""

    slides: tuple[Path, ...] = ()
    maps: tuple[Place, ...] = ()
    folders: tuple[Path, ...] = ()
    annotations: tuple[Path, ...] = ()
    """Files, which belong to the only slide, or else folders with a file for each slide's name."""
    mpp: float | None = None

    @property
    def single(self) -> bool:
        """Whether one slide was named, which all named maps must be of."""
        return len(self.slides) == 1 and not self.folders


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A map that may be opened."""

    id: str
    path: Place
    record: Record
    slide: SlideSettings
    highest: float | None = None
    """its highest value, where the manifest has it"""

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".zarr")


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """A slide that may be opened, or that is missing."""

    id: str
    path: Path
    maps: tuple[MapEntry, ...]
    annotations: tuple[Path, ...]
    error: str = ""

    @property
    def name(self) -> str:
        return self.path.name

    def annotation(self, number: str) -> Path | None:
        """A file of annotations by its id, which is its place."""
        known = {str(i): path for i, path in enumerate(self.annotations)}
        return known.get(number)


@dataclass(slots=True)
class _Listing:
    """What the named paths hold at one time."""

    slides: dict[str, SlideEntry] = field(default_factory=dict)
    maps: dict[str, tuple[SlideEntry, MapEntry]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Catalogue:
    """The slides and maps by their ids; folders are listed again as maps are added to them."""

    def __init__(self, named: Named) -> None:
        self.named = named
        self._lock = threading.Lock()
        self._list_at = 0.0
        self._listing = _Listing()
        self.refresh()

    @property
    def title(self) -> str:
        named = self.named
        first = (*named.folders, *named.slides)[0]
        return first.resolve().name or str(first)

    @property
    def folder(self) -> bool:
        """Whether the page begins with a list of slides."""
        return not self.named.single

    @property
    def problems(self) -> list[str]:
        """A line for each map that cannot be offered, and for each slide that was not scanned."""
        return self._listing.problems

    def slides(self) -> list[SlideEntry]:
        """All slides, by name."""
        return list(self.refresh().slides.values())

    def slide(self, key: str) -> SlideEntry | None:
        """A slide by its id; None where none was named."""
        return self._listing.slides.get(key) or self.refresh().slides.get(key)

    def map(self, key: str) -> tuple[SlideEntry, MapEntry] | None:
        """A map by its id, and its slide; None where none was named."""
        return self._listing.maps.get(key) or self.refresh().maps.get(key)

    def refresh(self) -> _Listing:
        """List the folders again, if that was not done just now."""
        with self._lock:
            if (started := time.monotonic()) >= self._list_at:
                self._listing = _list(self.named)
                ended = time.monotonic()
                self._list_at = ended + max(LISTED_S, (ended - started) / BUSY_SHARE)
            return self._listing


def _list(named: Named) -> _Listing:
    found = _Listing()
    rows = _manifest_rows(named, found.problems)
    slides = {path.resolve(): path for path in named.slides}
    for folder in named.folders:
        slides |= {path.resolve(): path for path in find_slides(folder)}
    owned: dict[Path, list[MapEntry]] = {resolved: [] for resolved in slides}
    for entry in _maps(named, rows, found.problems):
        row = rows.get(resolved_place(entry.path), {})
        slide = next(iter(slides)) if named.single else _slide_of(entry, slides, row)
        if slide not in owned:
            slides[slide], owned[slide] = slide, []
        owned[slide].append(entry)
    for resolved, path in sorted(slides.items(), key=lambda item: item[1].name.lower()):
        slide_entry = _slide_entry(path, resolved, owned[resolved], named)
        found.slides[slide_entry.id] = slide_entry
        found.maps |= {entry.id: (slide_entry, entry) for entry in slide_entry.maps}
    return found


def _manifest_rows(named: Named, problems: list[str]) -> Rows:
    """The rows of the manifests beside the named maps, by the paths of their maps."""
    found: dict[Place, Mapping[str, str]] = {}
    beside = (path.parent for path in named.maps if isinstance(path, Path))
    for folder in {*named.folders, *beside}:
        if not (folder / "manifest.csv").is_file():
            continue
        from slidescan.scanning.manifest import FAILED, MANIFEST, read_manifest  # imports zarr

        try:
            rows = read_manifest(folder / MANIFEST)
        except SlidescanError:
            continue  # somebody else's file
        found |= {(folder / name).resolve(): row for name, row in rows.items()}
        if folder in named.folders:
            failed = (row for row in rows.values() if row["state"] == FAILED)
            problems += [f"{row['slide']}: not scanned: {row['reason']}" for row in failed]
    return found


def _maps(named: Named, rows: Rows, problems: list[str]) -> list[MapEntry]:
    """The maps that can be offered; of the others, a line each."""
    paths = {resolved_place(path): path for path in named.maps}
    for folder in named.folders:
        paths |= {resolved_place(path): path for path in sorted(folder.glob("*.zarr"))}
    entries = []
    for resolved, path in paths.items():
        try:
            entries.append(_map_entry(path, rows.get(resolved, {})))
        except MapError as error:
            problems.append(str(error))
    return entries


def _map_entry(path: Place, row: Mapping[str, str]) -> MapEntry:
    """Raises MapError."""
    record, slide = read_checked_record(path)
    highest = None
    with suppress(KeyError, ValueError):
        highest = float(row["highest"]) if record.complete else None
    return MapEntry(_id(resolved_place(path)), path, record, slide, highest)


def _slide_of(entry: MapEntry, slides: Mapping[Path, Path], row: Mapping[str, str]) -> Path:
    """The slide of a map: by the manifest, by its recorded file name, or else beside the map.

    The path does not exist where the slide has moved.
    """
    name, folder = str(entry.record.provenance["slide"]), entry.path.parent
    named = (resolved for resolved, path in slides.items() if path.name == name)
    if isinstance(folder, Url):  # no slide is read where it lies beside
        return next(named, Path(name))
    recorded = Path(row.get("slide", name))
    # Version 0.1.0 wrote the path as it was typed, from a folder that is not recorded.
    places = [recorded, folder / recorded, folder.parent / recorded] if row else []
    there = (place.resolve() for place in places if place.is_file())
    return next(there, next(named, folder.resolve() / name))


def _slide_entry(path: Path, resolved: Path, maps: Sequence[MapEntry], named: Named) -> SlideEntry:
    key, error = _id(resolved), ""
    try:
        state = resolved.stat()
        # Browsers keep pictures by their address, so a file that was replaced has another.
        key = _id(resolved, state.st_size, state.st_mtime_ns)
    except OSError:
        error = (
            f"{path.name}: the slide is not in {resolved.parent}; name the folder that it was "
            "moved to as well, e.g. slidescan view SLIDES MAPS"
        )
    return SlideEntry(key, path, tuple(maps), tuple(_annotations(path, named)), error)


def _annotations(slide: Path, named: Named) -> Iterator[Path]:
    """The files that were named, and those in named folders that have the name of the slide."""
    for source in named.annotations:
        if not source.is_dir():
            yield source
            continue
        for file in sorted(source.iterdir()):
            if file.suffix.lower() in ANNOTATIONS and file.name.partition(".")[0] == slide.stem:
                yield file


def _id(path: Place, *state: int) -> str:
    text = "\0".join((str(path), *map(str, state)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_slide_of(entry: MapEntry, slide: Path, fingerprint: str) -> None:
    """Refuse the map of another slide. Raises MapError."""
    if not same_slide(entry.slide.fingerprint, fingerprint):
        raise MapError(
            f"{entry.path}: made from {entry.record.provenance['slide']}, and {slide} is another "
            "slide (their fingerprints differ); name the slide of the map"
        )


def sort_paths(paths: Sequence[Place], annotations: Sequence[Path], mpp: float | None) -> Named:
    """Sort the paths of the command line into slides, maps and folders.

    Raises:
        SlideError: maps alone, whose slide is not beside them.
        MapError: a map that cannot be read.
    """
    files = [path for path in paths if isinstance(path, Path)]
    maps: tuple[Place, ...] = tuple(path for path in files if (path / "zarr.json").is_file())
    folders = tuple(path for path in files if path.is_dir() and path not in maps)
    slides = tuple(path for path in files if path not in (*maps, *folders))
    maps += tuple(path for path in paths if isinstance(path, Url))
    named = Named(slides, maps, folders, tuple(annotations), mpp)
    entries = [_map_entry(path, {}) for path in maps]
    if slides or folders:
        return named
    rows = _manifest_rows(named, [])
    found = {_slide_of(each, {}, rows.get(resolved_place(each.path), {})): each for each in entries}
    for slide, entry in found.items():
        if not slide.is_file():
            raise SlideError(
                f"{entry.path}: its slide {slide.name} is not beside it; name it, e.g. "
                f"slidescan view {slide.name} {entry.path}"
            )
    return replace(named, slides=tuple(found))
