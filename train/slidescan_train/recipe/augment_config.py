"""Settings of augmentation: the probability and the range of each."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from slidescan.geometry import LABEL_PX
from slidescan.networks.plan import Settings
from slidescan_train.recipe.ranges import (
    Deviation,
    Odd,
    Percent,
    Positive,
    Probability,
    Share,
    Sigma,
    rising,
)

Channels = tuple[float, float, float]
Width = Annotated[float, Field(ge=0)]
Widths = tuple[Width, Width, Width]


class Draw(Settings):
    """One augmentation: its probability, and in subclasses its range."""

    p: Probability


class Turn(Draw):
    """Flips and rotations by 90 degrees: exact, and the label region stays in the centre."""


class Stain(Draw):
    """Stain augmentation: haematoxylin and eosin separately (Tellez et al. 2018)."""

    scale: Share = 0.2
    """The intensity of each stain is multiplied by 1 +- this."""
    shift: Share = 0.1
    """The optical density of each stain is shifted by +- this, except on glass."""


class Hed(Draw):
    """HED jitter: haematoxylin, eosin and DAB separately, and glass with them.

    Stain Color Jitter of Gao et al. 2023, https://arxiv.org/abs/2302.11861. Their setting for
    Camelyon17-WILDS is sigma 0.1 and p 0.57.
    """

    sigma: Share = 0.1
    """The amount of each stain is multiplied by 1 +- this and shifted by +- this."""


class RandStainNA(Draw):
    """Normalisation to a random template (RandStainNA, Shen et al. 2022).

    https://arxiv.org/abs/2206.12694. The template's statistics are those of CIELAB (L from 0 to
    100, a and b from -128 to 127). `python -m benchmarks.accuracy.colour_statistics` measures
    them; the defaults are those of 21,772 patches of PatchCamelyon.
    """

    means: Channels = (61.9, 22.7, -14.3)
    """Mean over the patches of the mean of L, a and b in a patch."""
    means_sd: Widths = (16.0, 11.0, 12.0)
    """Standard deviation over the patches of the mean in a patch."""
    spreads: Widths = (18.9, 7.6, 5.6)
    """Mean over the patches of the standard deviation of L, a and b in a patch."""
    spreads_sd: Widths = (5.2, 3.2, 2.9)
    """Standard deviation over the patches of the standard deviation in a patch."""
    strength: Probability = 1.0
    """Share of the way from a patch's own statistics to the template's; 1 as published."""


class Hue(Draw):
    """Hue and saturation augmentation: stains of laboratories that are not in the data.

    Tellez et al. 2019, https://doi.org/10.1016/j.media.2019.101544. Glass has no colour and does
    not change.
    """

    turn: Annotated[float, Field(ge=0, le=0.5)] = 0.5
    """Largest shift of the hue either way, as a share of the colour circle; 0.5 gives any hue."""
    saturation: Share = 0.5
    """The saturation is multiplied by 1 +- this."""


class Crop(Draw):
    """Random crop: edges are cut off and filled with white, as the scanner reads outside a slide.

    The network needs its whole field of view, and enlarging the rest would change the resolution.
    The label region is never cut.
    """

    most_px: Annotated[int, Field(ge=1, le=32, strict=True)] = 24
    """Widest strip that is cut from an edge; the label region begins 32 px from it."""


class Blur(Draw):
    """Gaussian blur, as out of focus."""

    sigma_px: Annotated[tuple[Sigma, Sigma], AfterValidator(rising)] = (0.5, 1.5)


class Rotation(Draw):
    """Rotation by a small angle; edges are mirrored.

    The label refers to an upright 32 px square: at 15 degrees its corners move by 6 px.
    """

    degrees: Annotated[float, Field(gt=0, le=15)] = 10.0


LABELLED_PX = 4
"""The longest translation under which a label still holds for the centre of a patch."""


class Translation(Draw):
    """Translation by whole pixels; edges are mirrored.

    A translation beyond `LABELLED_PX` can move tumour into or out of the labelled square. The new
    centre has no label then; only a teacher's probability can be the target. Eight ninths of a
    patch are margin without a label, so such translations show the network more tissue. Up to 32 px
    the centre contains no mirrored tissue.
    """

    px: Annotated[int, Field(ge=1, le=LABEL_PX, strict=True)] = 3


class FancyPCA(Draw):
    """Colour shift along the principal axes of the colours (Krizhevsky et al. 2012)."""

    alpha: Positive = 0.1
    """Standard deviation of the shift, as a share of that of the colours along the axis."""


class Brightness(Draw):
    """Brightness shifted by +- this share of the full scale."""

    brightness: Share = 0.2


class Saturation(Draw):
    """Saturation multiplied by a factor from 1 to 1 + this."""

    saturation: Positive = 0.5


class MotionBlur(Draw):
    """Motion blur: along a line of this many pixels in any direction."""

    length_px: Annotated[tuple[Odd, Odd], AfterValidator(rising)] = (3, 7)
    """Odd, so that the line is centred: an even length would move the label region."""


class Contrast(Draw):
    """Contrast changed by +- this share."""

    contrast: Share = 0.2


class GaussNoise(Draw):
    """Gaussian noise; standard deviation as a share of the full scale."""

    std: Annotated[tuple[Deviation, Deviation], AfterValidator(rising)] = (0.01, 0.05)


class ContrastBlur(Contrast, Blur):
    """Contrast, then blur."""


class ContrastBrightness(Contrast, Brightness):
    """Contrast and brightness."""


class BrightnessBlur(Brightness, Blur):
    """Brightness, then blur."""


class BrightnessNoise(Brightness, GaussNoise):
    """Brightness, then noise."""


class JPEG(Draw):
    """JPEG compression."""

    quality: Annotated[tuple[Percent, Percent], AfterValidator(rising)] = (50, 95)


class OneOf(Settings):
    """At most one of these is applied to a patch; their probabilities add up to 1 or less."""

    blur: Blur = Blur(p=0)
    rotation: Rotation = Rotation(p=0)
    translation: Translation = Translation(p=0)
    fancy_pca: FancyPCA = FancyPCA(p=0)
    brightness: Brightness = Brightness(p=0)
    saturation: Saturation = Saturation(p=0)
    motion_blur: MotionBlur = MotionBlur(p=0)
    contrast: Contrast = Contrast(p=0)
    gauss_noise: GaussNoise = GaussNoise(p=0)
    contrast_blur: ContrastBlur = ContrastBlur(p=0)
    contrast_brightness: ContrastBrightness = ContrastBrightness(p=0)
    brightness_blur: BrightnessBlur = BrightnessBlur(p=0)
    brightness_noise: BrightnessNoise = BrightnessNoise(p=0)
    jpeg: JPEG = JPEG(p=0)

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        total = sum(getattr(self, name).p for name in type(self).model_fields)
        if total > 1 + 1e-9:
            raise ValueError(f"its probabilities add up to {total:g}; at most one is drawn, so 1")
        return self


class AugmentConfig(Settings):
    """All augmentations, in their order; drawn anew for every patch and epoch."""

    d4: Turn = Turn(p=1.0)
    stain: Stain = Stain(p=0.5)
    hed: Hed = Hed(p=0)
    randstainna: RandStainNA = RandStainNA(p=0)
    hue: Hue = Hue(p=0.5)
    one_of: OneOf = OneOf(**{name: {"p": 0.06} for name in OneOf.model_fields})
    crop: Crop = Crop(p=0.1)
