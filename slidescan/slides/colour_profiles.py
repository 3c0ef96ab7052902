"""How much a slide's colour profile (ICC) would change. Imports no numpy, so that it loads fast."""

from __future__ import annotations

from PIL import Image, ImageCms

COLOURS = ((215, 125, 175), (90, 60, 140), (240, 215, 232), (200, 120, 180), (243, 243, 243))
"""Eosin, haematoxylin, pale eosin, a mixture, and glass."""


def profile_shift(profile: ImageCms.ImageCmsProfile) -> float | None:
    """By how many grey levels a profile moves the colours of H&E at most.

    None where the profile cannot be used.
    """
    colours = Image.new("RGB", (len(COLOURS), 1))
    colours.putdata(COLOURS)
    try:
        to_srgb = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        moved = to_srgb.apply(colours) if to_srgb else colours
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    pairs = zip(moved.tobytes(), colours.tobytes(), strict=True)
    return float(max(abs(one - other) for one, other in pairs))
