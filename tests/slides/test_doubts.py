"""What a slide's file says of its pixels: refused or warned of by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import slides
import tifffile
from PIL import ImageCms

from slidescan.errors import SlideError
from slidescan.slides.colour_profiles import profile_shift
from slidescan.slides.doubts import find_doubts
from slidescan.slides.properties import find_levels
from slidescan.slides.slide import Slide

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))


def write(path: Path, pixels: np.ndarray, **how: object) -> Path:
    settings = {"tile": (64, 64), "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, **settings, metadata=None, **how)
    return path


def warnings(path: Path) -> tuple[str, ...]:
    with Slide.open(path) as slide:
        return slide.warnings


def test_a_grey_slide_is_warned_of(tmp_path: Path) -> None:
    grey = slides.section(128, 128).mean(2).astype(np.uint8)
    (line,) = warnings(write(tmp_path / "grey.tif", grey, photometric="minisblack"))
    assert "one grey channel" in line
    assert warnings(write(tmp_path / "rgb.tif", slides.section(128, 128))) == ()


def test_cmyk_is_refused(tmp_path: Path) -> None:
    cmyk = np.zeros((128, 128, 4), np.uint8)
    path = write(tmp_path / "cmyk.tif", cmyk, photometric="separated")
    with pytest.raises(SlideError, match=r"are CMYK .*convert the slide to RGB"):
        Slide.open(path)


def gamma(exponent: float) -> ImageCms.ImageCmsProfile:
    """sRGB's profile with the curves of another exponent."""
    content = bytearray(SRGB.tobytes())
    tags = int.from_bytes(content[128:132], "big")
    for row in range(tags):
        at = 132 + 12 * row
        if content[at : at + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            place = int.from_bytes(content[at + 4 : at + 8], "big")
            number = round(exponent * 256).to_bytes(2, "big")  # u8Fixed8Number, ICC.1:2022, 10.6
            curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + number
            content[place : place + len(curve)] = curve
            content[at + 8 : at + 12] = len(curve).to_bytes(4, "big")
    return ImageCms.getOpenProfile(io.BytesIO(bytes(content)))


def test_a_colour_profile_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "icc.tif"
    write(path, slides.section(128, 128), photometric="rgb", iccprofile=b"no profile" * 30)
    assert warnings(path) == ()


def test_a_slides_own_colour_profile_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "icc.tif"
    profile = gamma(1.0).tobytes()
    write(path, slides.section(128, 128), photometric="rgb", iccprofile=profile)
    (line,) = warnings(path)
    assert "has a colour profile (ICC)" in line


def test_a_colour_profile_counts_by_what_it_would_change() -> None:
    assert profile_shift(SRGB) == 0
    shift = profile_shift(gamma(1.0))
    assert shift is not None
    (line,) = find_doubts([], {}, [], shift)
    assert f"by {shift:.0f} of 255; it is not applied" in line
    assert list(find_doubts([], {}, [], 0.0)) == []
    assert profile_shift(LAB) is None  # for other pixels than RGB


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"dicom.PhotometricInterpretation": "YBR_ICT"}, "salmon and blue"),
        ({"dicom.ConcatenationUID": "1.2.3"}, "part of a DICOM concatenation"),
        ({"dicom.NumberOfOpticalPaths": "4"}, "4 optical paths"),
    ],
)
def test_what_openslide_leaves_out_is_warned_of(recorded: dict[str, str], words: str) -> None:
    (line,) = find_doubts([], recorded, [], None)
    assert words in line


def test_ordinary_dicom_is_not_doubted(real_data: Path) -> None:
    for name in ("camelyon-jpeg.dcm", "camelyon-jpeg2000.dcm"):
        assert warnings(real_data / "slides" / name) == ()


def test_a_level_with_other_proportions_is_warned_of() -> None:
    def doubts(*size: int) -> list[str]:
        sizes = [(4000, 3000), size]
        levels = find_levels(Path("s.tif"), sizes, [1.0, 4.0], {}, (0.25, 0.25))
        return list(find_doubts([], {}, levels, None))

    assert doubts(1000, 750) == []
    assert doubts(999, 750) == []  # rounding
    assert "level 1 has other proportions" in doubts(1000, 600)[0]
