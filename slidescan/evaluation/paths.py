"""Find the maps and the annotations that are named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slidescan.errors import AnnotationError, MapError
from slidescan.maps.places import maps_below, resolved
from slidescan.tools.urls import Place, Url

SUFFIXES = (".xml", ".json", ".geojson")
"""Of annotations."""


def find_maps(paths: Sequence[Place]) -> list[Place]:
    """Return the maps that are named, and those in the folders that are named.

    Raises MapError where a path is neither.
    """
    found: dict[Place, Place] = {}
    for path in paths:
        inside: Sequence[Place] = [path]
        if isinstance(path, Url):
            inside = maps_below(path)
        elif not _is_map(path):
            inside = sorted(path.glob("*.zarr")) if path.is_dir() else []
            if not inside:
                raise MapError(f"{path}: {_no_map(path)}")
        found |= {resolved(each): each for each in inside}
    return list(found.values())


def find_annotations(folder: Path) -> dict[str, Path]:
    """Return the files of annotations in a folder, by `stem`.

    Raises AnnotationError where it is not a folder, has none, or has two for one slide.
    """
    found: dict[str, Path] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except NotADirectoryError as error:
        raise AnnotationError(
            f"{folder}: is a file; --annotations is the folder that holds it"
        ) from error
    except OSError as error:
        raise AnnotationError(
            f"{folder}: not a folder of annotations ({error.strerror}); correct --annotations"
        ) from error
    if _is_map(folder) or (not paths and any(folder.glob("*.zarr"))):
        raise AnnotationError(
            f"{folder}: holds maps, not annotations; MAPS come first, and --annotations is the "
            "folder of the .xml, .json or .geojson files"
        )
    for path in paths:
        other = found.setdefault(stem(path.name), path)
        if other != path:
            raise AnnotationError(
                f"{folder}: {other.name} and {path.name} are of the same slide; keep one"
            )
    if not found:
        raise AnnotationError(
            f"{folder}: has no annotations ({', '.join(SUFFIXES)}); correct --annotations"
        )
    return found


def stem(name: str) -> str:
    """Return a slide's name without its ending, in lower case."""
    return Path(name).stem.casefold()


def _is_map(path: Path) -> bool:
    return (path / "zarr.json").exists()


def _no_map(path: Path) -> str:
    """Say what is at a path, and what is expected."""
    if path.suffix.lower() in SUFFIXES or (
        path.is_dir() and any(each.suffix.lower() in SUFFIXES for each in path.iterdir())
    ):
        return "annotations, not maps; name the maps first and the annotations with --annotations"
    if not path.exists():
        return "no such map or folder; correct the path"
    return "neither a map nor a folder of maps (*.zarr)"
