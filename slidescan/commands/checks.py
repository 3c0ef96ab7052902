"""Checks of what a user names, made before anything that takes long to import."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from slidescan.errors import DataError, MapError, ModelError, SlideError, WriteError
from slidescan.tools.urls import Place, Url, is_url

FILES = {
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pdf", ".png", ".svg", ".tif", ".tiff", ".webp"),
    *(".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu"),
    *(".csv", ".geojson", ".h5", ".hdf5", ".json", ".npy", ".npz", ".txt", ".xml", ".yaml"),
    *(".safetensors", ".zip"),
}
"""Endings of files, which a map or a folder of maps is not named by."""


def check_slide(path: Place) -> None:
    """Refuse a slide that is not there, or a map in its place.

    Raises:
        SlideError: no such file, or a map.
    """
    if is_map(path):
        raise SlideError(f"{path}: is a map, not a slide; name the slide that it was made from")
    if not isinstance(path, Url) and not os.path.lexists(path):
        raise SlideError(f"{path}: no such file; {similar(path)}")


def check_slide_and_map(slide: Place, map_path: Place) -> None:
    """Refuse a slide or a map that is not there, and the two in each other's place.

    Raises:
        SlideError: no such slide.
        MapError: no such map, or the two are swapped.
    """
    if is_map(slide) and isinstance(map_path, Path) and map_path.is_file():
        raise MapError(f"{slide} is a map and {map_path} a file: the two are swapped")
    check_slide(slide)
    check_map(map_path)


def check_map(path: Place) -> None:
    """Refuse a map that is not there; of an address, opening it says so.

    Raises:
        MapError: not a map.
    """
    if not isinstance(path, Url) and not is_map(path):
        raise MapError(f"{path}: not a slidescan map; {similar(path)}")


def check_new(out: Path, endings: Sequence[str], *, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before any long work.

    `endings` are those that the file may have, the usual one first, e.g. (".ome.tif", ".tif").

    Raises:
        WriteError: another ending, no such folder, a folder in its place, or it exists and
            `overwrite` is false.
    """
    from slidescan.tools.atomic_files import check_folder

    if not out.name.lower().endswith(tuple(endings)):
        raise WriteError(
            f"{out}: the file is a {' or '.join(endings)}; name it so, e.g. --out "
            f"{out.stem or 'map'}{endings[0]}"
        )
    check_folder(out)
    if out.is_dir():
        raise WriteError(f"{out}: is a folder; choose another --out")
    if os.path.lexists(out) and not overwrite:
        raise WriteError(f"{out}: exists; pass --overwrite or choose another --out")


def is_map(path: Place) -> bool:
    """Whether a path is a zarr group; its record is checked when it is opened.

    An address is told by its ending.
    """
    if isinstance(path, Url):
        return path.suffix == ".zarr"
    return (path / "zarr.json").is_file()


def check_exist(*paths: Path | None) -> None:
    """Refuse a file or folder of patches that is not there.

    Raises:
        DataError: the first that is missing, and a remedy.
    """
    for path in paths:
        if path and not os.path.lexists(path):
            raise DataError(f"{path}: no such file or folder; {similar(path)}")


def check_map_name(out: Place) -> None:
    """Refuse the name of a file for a map, which is a folder, and a place that ends with a command.

    Raises:
        MapError: the name ends like a file's, or is memory://.
    """
    if isinstance(out, Url) and out.scheme == "memory":
        raise MapError(
            f"--out {out}: is this command's own memory, which ends with it; name a folder or a "
            "bucket, or call slidescan.scan in Python, which reads such a map afterwards"
        )
    if out.suffix.lower() not in FILES or (isinstance(out, Path) and out.is_dir()):
        return
    zarr = out.with_name(f"{out.stem}.zarr")
    draw = "; slidescan export png draws a map" if out.suffix.lower() == ".png" else ""
    raise MapError(
        f"--out {out}: a map is a zarr folder, not a {out.suffix} file; name it {zarr}{draw}"
    )


def check_models(sources: Sequence[str]) -> None:
    """Refuse models that are not there.

    Raises:
        ModelError: no such model, or a card that cannot be read.
    """
    from slidescan.models.card import read_card

    for source in sources:
        if is_url(source):
            raise ModelError(
                f"--model {source}: a model is a file of this machine; copy it and its card"
            )
        read_card(source)


def similar(path: Path) -> str:
    """A remedy for a path that is not there: names in its folder that are spelt like it."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return f"there is no folder {path.parent}; correct the path"
    found = get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / found[0]}?" if found else "correct the path"
