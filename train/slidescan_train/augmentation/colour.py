"""Augmentations of colour."""

from __future__ import annotations

from typing import Any

import albumentations as A  # noqa: N812  (its own idiom)
import cv2
import numpy as np
from numpy.typing import NDArray

from slidescan_train.recipe.augment_config import RandStainNA as RandStainNAConfig

Pixels = NDArray[np.uint8]


class HEStain(A.HEStain):  # type: ignore[misc]  # albumentations ships no types
    """Stain augmentation: changes haematoxylin and eosin separately, by a published stain matrix.

    Tellez et al. 2018, https://doi.org/10.1109/TMI.2018.2820199. The library's own version drops
    what the two stains do not explain: even without jitter it changes a patch of PatchCamelyon by 9
    of 255 on average. This version keeps the rest, so that no jitter means no change, and it does
    not shift glass.
    """

    def apply(
        self,
        img: Pixels,
        stain_matrix: NDArray[np.float64],
        scale_factors: NDArray[np.float64],
        shift_values: NDArray[np.float64],
        **_: Any,
    ) -> Pixels:
        density = cv2.LUT(img, DENSITY)
        # A pixel's densities are M.T @ its concentrations; those are pinv(M.T) @ the densities.
        to_stains = np.linalg.solve(stain_matrix @ stain_matrix.T, stain_matrix)
        change = stain_matrix.T @ np.diag(scale_factors - 1) @ to_stains
        scaled = cv2.transform(density, np.eye(3) + change)
        stained = cv2.transform(density, STAINED)
        stained = cv2.threshold(stained, 1, 0, cv2.THRESH_TRUNC)[1]
        stained = cv2.threshold(stained, 0, 0, cv2.THRESH_TOZERO)[1]
        shift = cv2.transform(stained, stain_matrix.T @ shift_values[:, None])
        return np.asarray(cv2.convertScaleAbs(cv2.exp(-cv2.add(scaled, shift)), alpha=255))


DENSITY = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)
"""Optical density of each pixel value; 0 is treated as 1."""

STAINED = np.array([[5 / 3, 5 / 3, 5 / 3, -0.5]])
"""Share of the shift applied to a pixel: 0 up to a mean density of 0.1, 1 from 0.3 on."""


class HEDJitter(A.ImageOnlyTransform):  # type: ignore[misc]  # albumentations ships no types
    """Scales and shifts three stains: haematoxylin, eosin and DAB.

    Stain Color Jitter of Gao et al. 2023, https://arxiv.org/abs/2302.11861, with the stains of
    Ruifrok and Johnston 2001. As in the published code, amounts of stain are computed from the
    logarithm of the pixel values 0..255, not from the optical density: white has an amount too, so
    glass changes its colour as well.
    """

    def __init__(self, sigma: float, p: float = 1) -> None:
        super().__init__(p=p)
        self.sigma = sigma

    def get_params(self) -> dict[str, Any]:
        scales, shifts = self.random_generator.uniform(-self.sigma, self.sigma, (2, 3))
        return {"scales": 1 + scales, "shifts": shifts}

    def apply(
        self,
        img: Pixels,
        scales: NDArray[np.float64],
        shifts: NDArray[np.float64],
        **_: Any,
    ) -> Pixels:
        # -log(pixel) is HED.T @ amounts.
        linear = HED.T @ np.diag(scales) @ np.linalg.inv(HED.T)
        change = np.column_stack([linear, -HED.T @ shifts])
        return np.asarray(cv2.convertScaleAbs(cv2.exp(cv2.transform(cv2.LUT(img, LOG), change))))


HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Red, green and blue absorbed by haematoxylin, eosin and DAB (Ruifrok and Johnston 2001)."""

LOG = np.log(np.maximum(np.arange(256, dtype=np.float32), 0.25))
"""Logarithm of each pixel value; 0 is treated as 0.25, which rounds to 0 again."""


class RandStainNA(A.ImageOnlyTransform):  # type: ignore[misc]  # albumentations ships no types
    """Normalises a patch (Reinhard et al. 2001) to a random template.

    RandStainNA of Shen et al. 2022, https://arxiv.org/abs/2206.12694, in CIELAB. A template is a
    mean and a standard deviation for each channel, drawn from the normal distributions that these
    have over the patches of a data set. Unlike the published code, no draw is further than `FAR`
    standard deviations from its mean, and no channel's contrast changes by more than the factor
    `STRETCH`: a negative standard deviation would be drawn otherwise, and the noise of glass would
    be enlarged to the contrast of tissue.
    """

    def __init__(self, settings: RandStainNAConfig, p: float = 1) -> None:
        super().__init__(p=p)
        self.settings = settings

    def get_params(self) -> dict[str, Any]:
        means, spreads = np.clip(self.random_generator.standard_normal((2, 3)), -FAR, FAR)
        of = self.settings
        return {
            "means": np.array(of.means) + means * of.means_sd,
            "spreads": np.array(of.spreads) + spreads * of.spreads_sd,
        }

    def apply(
        self,
        img: Pixels,
        means: NDArray[np.float64],
        spreads: NDArray[np.float64],
        **_: Any,
    ) -> Pixels:
        lab = cv2.cvtColor(img.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        own_means, own_spreads = (np.ravel(each) for each in cv2.meanStdDev(lab))
        stretch = np.clip(spreads / np.maximum(own_spreads, 1e-3), 1 / STRETCH, STRETCH)
        factors = 1 + self.settings.strength * (stretch - 1)
        targets = own_means + self.settings.strength * (means - own_means)
        change = np.column_stack([np.diag(factors), targets - factors * own_means])
        rgb = cv2.cvtColor(cv2.transform(lab, change), cv2.COLOR_LAB2RGB)
        rgb = cv2.threshold(rgb, 0, 0, cv2.THRESH_TOZERO)[1]
        return np.asarray(cv2.convertScaleAbs(rgb, alpha=255))


FAR = 2.0
"""Largest distance of a template's statistic from its mean, in standard deviations."""

STRETCH = 3.0
"""Largest factor by which the contrast of a channel changes, either way."""


class KrizhevskyPCA(A.FancyPCA):  # type: ignore[misc]  # albumentations ships no types
    """Colour shift along the principal axes of the patch's colours (Krizhevsky et al. 2012, 4.1).

    The shift along each axis is normal, with a share `alpha` of the colours' standard deviation.
    The library's own version multiplies by variances of values in [0, 1]: at the usual alpha of 0.1
    it changes a patch of PatchCamelyon by 0.1 of 255 on average, which rounding removes. (The paper
    says variance as well, but not the unit of the values.)
    """

    def apply(self, img: Pixels, alpha_vector: NDArray[np.float64], **_: Any) -> Pixels:
        # Sums of integers in float64 are exact, whatever the number of BLAS threads.
        colours = img.reshape(-1, 3).astype(np.float64)
        mean = np.array(cv2.mean(img)[:3])
        covariance = colours.T @ colours / len(colours) - np.outer(mean, mean)
        variances, axes = np.linalg.eigh(covariance)
        shift = axes @ (alpha_vector * np.sqrt(np.maximum(variances, 0)))
        return np.asarray(cv2.add(img, np.append(shift, 0)))  # rounded and clipped
