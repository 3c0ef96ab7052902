"""Slides with several focal planes: which one is read."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import slides
from PIL import Image

from slidescan.geometry import Box
from slidescan.slides.focal_planes import find_planes
from slidescan.slides.slide import Slide

CENTIMETRE = 3
SLONG, LONG, SHORT, FLOAT, RATIONAL = 9, 4, 3, 11, 5


def write_ndpi(path: Path, images: Sequence[tuple[np.ndarray, int]]) -> None:
    """Write pixels, each with the offset of its focal plane, as OpenSlide opens them.

    One strip of JPEG each, and links of 64 bits between the directories.
    """
    file = bytearray(b"II\x2a\0" + bytes(8))
    link = 4
    for pixels, plane in images:
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, "JPEG", quality=95)
        data = len(file)
        file += jpeg.getvalue()
        resolution = len(file)
        file += struct.pack("<II", 10_000, 1)
        height, width = pixels.shape[:2]
        tags = [
            *((256, LONG, width), (257, LONG, height), (259, SHORT, 7), (262, SHORT, 6)),
            *((273, LONG, data), (278, LONG, height), (279, LONG, len(jpeg.getvalue()))),
            *((282, RATIONAL, resolution), (283, RATIONAL, resolution), (296, SHORT, CENTIMETRE)),
            *((65420, LONG, 1), (65421, FLOAT, 10.0), (65424, SLONG, plane)),
        ]
        struct.pack_into("<Q", file, link, len(file))
        file += struct.pack("<H", len(tags))
        for tag, kind, value in tags:
            form = {SLONG: "i", FLOAT: "f"}.get(kind, "I")
            file += struct.pack(f"<HHI{form}", tag, kind, 1, value)
        link = len(file)
        file += bytes(8)
    path.write_bytes(file)


@pytest.mark.parametrize("offsets", [(0,), (-2000, 0, 2000), (0, 1500)])
def test_an_ndpi_says_which_plane_is_read(offsets: tuple[int, ...], tmp_path: Path) -> None:
    path, sections = (
        tmp_path / "slide.ndpi",
        {offset: slides.section(128, 160, seed=n) for n, offset in enumerate(offsets)},
    )
    whole = [(sections[offset], offset) for offset in offsets]
    write_ndpi(path, [*whole, *((slides.shrink(pixels, 4), offset) for pixels, offset in whole)])
    with Slide.open(path) as slide:
        assert slide.levels[0].shape_px == (128, 160)
        read = slide.read_level(0, Box(0, 0, 128, 160))
        told = [line for line in slide.warnings if "focal planes" in line]
    assert np.abs(read.astype(int) - sections[0]).mean() < 5
    if len(offsets) == 1:
        assert told == []
    else:
        offsets_read = f"that at 0 of offsets {min(offsets)} to {max(offsets)}"
        assert told == [f"has {len(offsets)} focal planes, of which OpenSlide reads {offsets_read}"]


def test_a_plain_tiff_has_one_plane(section: Path) -> None:
    with Slide.open(section) as slide:
        assert slide.warnings == ()


def slidedat(*values: str) -> dict[str, str]:
    """Properties of a MIRAX slide as OpenSlide makes them of Slidedat.ini."""
    names = ("Slide zoom level", "Slide filter level", "Microscope focus level", "Scan info layer")
    found = {f"HIER_{n}_NAME": name for n, name in enumerate(names)}
    found |= {f"HIER_0_VAL_{n}": f"ZoomLevel_{n}" for n in range(10)}
    found |= {f"HIER_2_VAL_{n}": value for n, value in enumerate(values)}
    found["HIER_2_VAL_0_SECTION"] = "LAYER_2_LEVEL_0_SECTION"
    return {f"mirax.HIERARCHICAL.{key}": value for key, value in found.items()}


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"dicom.TotalPixelMatrixFocalPlanes": "3"}, "has 3 focal planes"),
        ({"dicom.TotalPixelMatrixFocalPlanes": "1"}, ""),
        ({"ventana.Z-layers": "5"}, "has 5 focal planes"),
        ({"hamamatsu.NoLayers": "2"}, "has 2 focal planes, of which OpenSlide reads the first"),
        (slidedat("ExtFocusLevel"), ""),
        (slidedat("ExtFocusLevel", "ZStackLevel_(-1)", "ZStackLevel_(1)"), "has 2 focal planes"),
        ({"openslide.vendor": "hamamatsu"}, ""),  # a file that is gone
        ({}, ""),
    ],
)
def test_what_properties_tell(recorded: dict[str, str], words: str, tmp_path: Path) -> None:
    told = find_planes(tmp_path / "none", recorded)
    assert (told or "").startswith(words)
    assert bool(told) == bool(words)
