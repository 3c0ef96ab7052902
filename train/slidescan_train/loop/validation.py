"""What a card says of the validation patches."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from slidescan.models.scores import Validation
from slidescan.statistics.bootstrap import bootstrap
from slidescan.statistics.metrics import Evaluation, OperatingPoints, names

DIGITS = 4


def validate(labels: NDArray[np.int64], p: NDArray[np.float32]) -> Validation:
    """Scores of P(tumour) (N,) for labels (N,), with the 95 % interval of the AUC."""
    order = np.argsort(-p, kind="stable")  # which is quicker to evaluate
    found = Evaluation(labels[order], p[order].astype(np.float64))
    metrics = dict(zip(names(OperatingPoints()), bootstrap(found.values, len(p)), strict=True))
    auc = metrics["roc_auc"]
    return Validation(
        patches=len(p),
        auc=round(auc.value, DIGITS),
        auc_low=_known(auc.low),
        auc_high=_known(auc.high),
        accuracy=round(metrics["accuracy"].value, DIGITS),
        nll=round(metrics["nll"].value, DIGITS),
        ece=round(metrics["ece"].value, DIGITS),
    )


def _known(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None
