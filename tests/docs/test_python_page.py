"""docs/python.md describes the whole public API, and nothing else."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import slidescan

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def names(title: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, flags=re.M | re.S)
    cells = re.findall(r"^\| (`.*?) \|", text, flags=re.M)
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


def public(kind: type) -> set[str]:
    """What a class itself defines for its users."""
    return {name for name in vars(kind) if not name.startswith("_")}


def test_every_public_name_is_described() -> None:
    missing = [name for name in slidescan.__all__ if f"slidescan.{name}" not in PAGE]
    assert missing == ["Classifier", "Map"], "both are described under headings of their own"


def test_the_attributes_of_a_map_are_described() -> None:
    assert names("Maps") == public(slidescan.Map)


def test_the_attributes_of_a_region_are_described() -> None:
    assert names("Regions of a map") == {each.name for each in fields(slidescan.Region)}


def test_the_methods_of_a_classifier_are_described() -> None:
    beside = {"forward", "field_px", "stride_px", "mpp"}  # called as model(x); in the text
    assert names("Models") - {"model"} == public(slidescan.Classifier) - beside
    assert all(f"`{name}`" in PAGE for name in beside - {"forward"})
