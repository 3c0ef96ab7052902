"""Operating points: thresholds by the sensitivity that they reach on labelled patches."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slidescan.networks.plan import Settings

SENSITIVITIES = {"sens90": 0.90, "sens95": 0.95, "sens99": 0.99}
"""The least sensitivity of each operating point, by its name."""

Share = Annotated[float, Field(ge=0, le=1)]


class OperatingPoint(Settings):
    """A threshold, and what it gives on the patches that it was chosen on."""

    threshold: Share
    """Patches with at least this P(tumour) are called tumour."""
    sensitivity: Share
    specificity: Share
    sensitivity_cross_fitted: Share | None = None
    """Each patch judged by the calibration and threshold of the other folds; None where a fold
    allows no fit."""
    specificity_cross_fitted: Share | None = None


class OperatingTable(Settings):
    """The operating points of a model with its calibration, in fp32 and without averaging."""

    data: str
    """Name and description of the data set."""
    patches: int
    fingerprint: str
    """SHA-256 over id, label and pixels of the patches."""
    points: dict[str, OperatingPoint]
    """By name, see `SENSITIVITIES`."""
