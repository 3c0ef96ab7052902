"""Pages from templates. Everything that is inserted is escaped: names of files may be hostile."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slidescan.geometry import LABEL_PX, PATCH_PX
from slidescan.report.content import Content, probability
from slidescan.report.images import CROP_UM

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class Row:
    """A slide of a cohort."""

    content: Content
    page: str
    """the file's name"""


def slide_page(content: Content, index: str = "") -> str:
    """The report of a slide as HTML; `index` is the file to link back to."""
    return _render("slide.html.j2", content=content, index=index)


def index_page(rows: Sequence[Row], failed: Sequence[tuple[str, str]], made: str) -> str:
    """The table of a cohort as HTML; `failed` are maps and what is wrong with them."""
    return _render("index.html.j2", rows=rows, failed=failed, made=made)


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "sort.js")
    )
    made.globals |= {
        "style": style,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "label_px": LABEL_PX,
        "patch_px": PATCH_PX,
        "crop_um": CROP_UM,
    }
    made.filters |= {"p": probability, "link": lambda name: f"./{quote(name)}"}
    return made
