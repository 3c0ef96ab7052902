"""docs/architecture.md describes the code as it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from docs.architecture import PAGE, drawn

ROOT = Path(__file__).parents[2]
CODE = [ROOT / "slidescan", ROOT / "train" / "slidescan_train", ROOT / "benchmarks"]
TEXT = PAGE.read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading of the page."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, flags=re.M | re.S)
    assert isinstance(text, str)
    return text


def first_cells(table: str) -> list[str]:
    """The first column of a Markdown table."""
    return re.findall(r"^\| ((?:`[^|]*`)[^|]*?) \|", table, flags=re.M)


def test_the_import_graph_is_that_of_the_code() -> None:
    assert drawn(TEXT) == TEXT, "run: python -m docs.architecture"


def test_the_table_of_imports_follows_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    contract = [
        [part.strip().removeprefix("slidescan.") for part in row.split("|")] for row in layers
    ]
    rows = [re.findall(r"`([^`]*)`", cell) for cell in first_cells(section("What may import what"))]
    assert rows == contract


def test_the_tree_names_every_folder() -> None:
    listed = {cell.strip("`") for cell in first_cells(section("The tree"))}
    folders = {
        f"{folder.relative_to(ROOT).as_posix()}/"
        for root in CODE
        for folder in [root, *root.iterdir()]
        if folder.name != "benchmarks" and any(folder.glob("*.py"))
    }
    assert listed == folders


def test_every_module_that_the_page_names_exists() -> None:
    names = re.findall(r"`([\w/]+\.py)`", TEXT)
    assert len(names) > 20
    modules = [path.as_posix() for folder in CODE for path in folder.rglob("*.py")]
    missing = [name for name in names if not any(path.endswith(f"/{name}") for path in modules)]
    assert not missing
