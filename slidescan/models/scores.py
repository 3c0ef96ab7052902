"""The patch sets of a training, and the scores on them."""

from __future__ import annotations

from slidescan.networks.plan import Settings


class Validation(Settings):
    """Scores on validation patches."""

    patches: int
    auc: float
    auc_low: float | None = None
    """The 95 % bootstrap interval, for independent patches; None where unknown."""
    auc_high: float | None = None
    accuracy: float
    """At 0.5."""
    nll: float
    ece: float | None = None
    """Expected calibration error, 15 bins."""


class TrainingPatches(Settings):
    """The training patches of one folder."""

    name: str
    patches: int
    tumour: int
    """Patches with tumour."""
    fingerprint: str
    """SHA-256 over id, label and the pixels' SHA-256 of each patch, sorted by id."""


class ScoredPatches(TrainingPatches):
    """A validation set and the scores on it."""

    rule: str
    """Which patches it has."""
    ids_sha256: str
    scores: Validation
