"""The sources of the viewer's page: where its libraries come from, and contrast by WCAG 2.2."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "slidescan" / "viewer" / "page"
STYLE = (PAGE / "src" / "page.css").read_text(encoding="utf-8")


def test_the_lock_file_names_checksums_and_no_addresses() -> None:
    packages = json.loads((PAGE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    installed = {name: package for name, package in packages.items() if name}
    assert "node_modules/openseadragon" in installed
    assert all("integrity" in package for package in installed.values())
    assert not any("resolved" in package for package in installed.values())


def test_the_page_names_no_other_host() -> None:
    text = (PAGE / "index.html").read_text(encoding="utf-8") + STYLE
    assert not re.search(r"(https?:)?//\w", text)


def palettes() -> dict[str, dict[str, str]]:
    """The colours of each theme, by name."""
    blocks = re.findall(r"^ *(:root[^{]*)\{([^}]*)\}", STYLE, flags=re.M)
    found = [dict(re.findall(r"--([\w-]+): (#\w{6})", body)) for _, body in blocks]
    light, dark, by_system = found
    assert by_system == dark
    assert light.keys() == dark.keys()
    return {"light": light, "dark": dark}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


# Text needs 4.5, what shows a control or the focus 3.
PAIRS = [
    *((text, ground, 4.5) for text in ("text", "muted") for ground in ("ground", "surface")),
    ("text", "raised", 4.5),
    ("text", "chosen", 4.5),
    ("muted", "chosen", 4.5),
    ("muted", "raised", 4.5),
    ("accent", "surface", 4.5),
    ("on-accent", "accent", 4.5),
    ("error", "error-ground", 4.5),
    ("error", "surface", 4.5),
    ("error", "ground", 4.5),
    ("edge", "surface", 3.0),
    ("accent", "stage", 3.0),
]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_controls_stand_out(theme: str) -> None:
    colours = palettes()[theme]
    found = {(a, b): contrast(colours[a], colours[b]) for a, b, _ in PAIRS}
    weak = {(a, b): found[a, b] for a, b, least in PAIRS if found[a, b] < least}
    assert weak == {}
