"""The slides of a batch: what the arguments of a command name, and what their maps are called."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from slidescan.errors import ConfigError
from slidescan.scanning.manifest import COLUMNS
from slidescan.slides.finding import ENDINGS, find_slides, one_per_series
from slidescan.slides.properties import positive
from slidescan.tools.regular_files import text_file
from slidescan.tools.urls import Place, Url, is_there, place_of

SLIDE, NAME, MPP = "slide", "name", "mpp"
"""Columns of a list of slides that have a meaning. Others are carried along, except those that the
manifest itself has."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A slide to scan."""

    slide: Place
    """an absolute path, or an address"""
    name: str | None = None
    """of its map, without .zarr; chosen by `name_maps` where None"""
    mpp: float | None = None
    """um/px of level 0, instead of what the slide records"""
    carried: Mapping[str, str] = field(default_factory=dict)
    """further columns of its row in a list, such as group and annotation"""
    problem: str = ""
    """why it cannot be scanned, found in its row"""


def read_arguments(arguments: Iterable[Place]) -> list[Entry]:
    """The slides that files, folders, patterns and lists (CSV) name, each once, in their order.

    A file is taken whatever its ending; one that is missing is reported when its turn comes. Of the
    DICOM files of a series one is kept, except in lists.

    Raises:
        ConfigError: a folder or pattern without slides, or a list that cannot be read.
    """
    found: list[Entry] = []
    files: list[Path] = []
    for argument in arguments:
        if isinstance(argument, Url):
            found.append(Entry(argument))
        elif argument.suffix.lower() in (".csv", ".tsv") and argument.is_file():
            found += read_list(argument)
        else:
            files += _expanded(argument)
    found += (Entry(path) for path in one_per_series(map(_absolute, files)))
    unique: dict[tuple[Place, str | None], Entry] = {}
    for entry in found:
        unique.setdefault((entry.slide, entry.name), entry)
    named = {entry.slide for entry in unique.values() if entry.name}
    return _own_names(each for each in unique.values() if each.name or each.slide not in named)


def _own_names(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, with a problem where an earlier one was given the same name."""
    owners: dict[str, Place] = {}
    found = []
    for entry in entries:
        owner = owners.setdefault(entry.name.casefold(), entry.slide) if entry.name else entry.slide
        if owner != entry.slide:
            problem = f"the name {entry.name!r} is that of {owner}; change one of the two"
            entry = replace(entry, name=None, problem=problem)
        found.append(entry)
    return found


def _expanded(argument: Path) -> list[Path]:
    if argument.is_dir():
        if (argument / "zarr.json").is_file():
            raise ConfigError(f"{argument}: is a map, not a slide; name the slides")
        slides = find_slides(argument)
        if not slides:
            raise ConfigError(
                f"{argument}: holds no slides; looked for {', '.join(sorted(ENDINGS))}"
            )
        return slides
    if glob.has_magic(str(argument)) and not os.path.lexists(argument):
        matches = sorted(map(Path, glob.glob(str(argument), recursive=True)))
        if not matches:
            raise ConfigError(f"{argument}: no file matches; correct the pattern")
        return [path for match in matches for path in _expanded(match)]
    return [argument]


def _absolute(path: Path) -> Path:
    # Not resolved: in an archive of links the name of the link is the slide's name.
    return Path(os.path.abspath(path))


def read_list(path: Path) -> list[Entry]:
    """Read a list of slides: a CSV with a header and a column `slide`.

    Columns may be separated by commas, semicolons or tabs; a case of the names does not matter. A
    relative path is looked for beside the list and then in the working folder.

    Raises:
        ConfigError: it cannot be read, has no column `slide`, or a row names no slide.
    """
    try:
        with text_file(path, "surrogateescape") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
            names = [name.lower() if name.lower() in (SLIDE, NAME, MPP) else name for name in names]
            if SLIDE not in names or len(set(names)) < len(names):
                told = ", ".join(names) or "none"
                raise ConfigError(f"{path}: has the columns {told}; a list needs one called slide")
            rows = list(csv.reader(file, delimiter=delimiter))
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    entries = [_entry(path, number, names, row) for number, row in enumerate(rows, 2) if any(row)]
    if not entries:
        raise ConfigError(f"{path}: lists no slides")
    return entries


def _entry(path: Path, number: int, names: list[str], cells: list[str]) -> Entry:
    row = dict(zip(names, (cell.strip() for cell in cells), strict=False))
    if not row.get(SLIDE):  # a short row may end before the column
        raise ConfigError(f"{path}: row {number} names no slide; fill its column slide")
    slide = place_of(row[SLIDE])
    if isinstance(slide, Path):
        beside = path.parent / slide
        slide = beside if os.path.lexists(beside) or not os.path.lexists(slide) else slide
    problem, name, mpp = "", row.get(NAME) or None, row.get(MPP, "")
    # A spreadsheet that separates columns by semicolons writes decimal commas.
    value = positive(mpp.replace(",", ".")) if mpp else None
    if mpp and value is None:
        problem = f"mpp {mpp!r} in row {number} of {path.name}: expected um/px, e.g. 0.25"
    elif name and (name.startswith(".") or set(name) & set('/\\:*?"<>|')):
        problem = f"name {name!r} in row {number} of {path.name}: cannot be the name of a file"
        name = None
    elif len(cells) > len(names):
        problem = f"row {number} of {path.name} has more cells than the header"
    carried = {key: cell for key, cell in row.items() if key not in (NAME, *COLUMNS)}
    return Entry(
        _absolute(slide) if isinstance(slide, Path) else slide, name, value, carried, problem
    )


def name_maps(entries: Sequence[Entry], known: Mapping[str, str]) -> list[str]:
    """Choose the name of each entry's map, without .zarr.

    A slide keeps the name that it has in `known` (slides by the names of their maps, from the
    manifest). A new one is named after its file, a DICOM slide after its folder. Where this name
    belongs to another slide, the names of the folders above are put before it, and as a last resort
    the ending or a digest of the path after it. Names do not depend on the order of the entries.

    >>> name_maps([Entry(Path("/a/x.svs")), Entry(Path("/b/x.svs")), Entry(Path("/b/y.svs"))], {})
    ['a-x', 'b-x', 'y']
    """
    # The name of a slide that is gone is free: that slide was probably moved.
    taken = {name.casefold() for name, slide in known.items() if is_there(slide)}
    by_slide = {slide: name for name, slide in known.items()}
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        if entry.name or str(entry.slide) in by_slide:
            names[index] = entry.name or by_slide[str(entry.slide)]
            taken.add(names[index].casefold())
    waiting = {i: _candidates(entry) for i, entry in enumerate(entries) if i not in names}
    while waiting:
        proposed = {index: next(candidates) for index, candidates in waiting.items()}
        count: dict[str, int] = {}
        for name in proposed.values():
            count[name.casefold()] = count.get(name.casefold(), 0) + 1
        for index, name in proposed.items():
            if count[name.casefold()] == 1 and name.casefold() not in taken:
                names[index] = name
                del waiting[index]
        taken.update(name.casefold() for name in names.values())
    return [names[index] for index in range(len(entries))]


def _candidates(entry: Entry) -> Iterator[str]:
    """Names for the map of a slide, the best first, without end."""
    if isinstance(entry.slide, Url):
        folders = [entry.slide.host, *entry.slide.parent.path.split("/")]
        folders = [re.sub(r"[^\w.-]", "_", part) for part in folders if part]
    else:
        folders = [part for part in entry.slide.parent.parts if part != entry.slide.anchor]
    name, ending = entry.slide.stem, entry.slide.suffix[1:]
    if ending.lower() == "dcm" and folders:
        yield folders[-1]  # files of a series are often called by numbers
    yield name
    for folder in reversed(folders):
        name = f"{folder}-{name}"
        yield name
    yield f"{entry.slide.stem}-{ending}"
    digest = sha256(os.fsencode(str(entry.slide))).hexdigest()
    for length in range(8, len(digest) + 1):
        yield f"{entry.slide.stem}-{digest[:length]}"
    raise ValueError(f"{entry.slide}: listed twice")
