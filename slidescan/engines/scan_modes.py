"""The two ways to a map: the network over whole tiles, or over one patch after another."""

from __future__ import annotations

from typing import Literal

from slidescan.engines import dense
from slidescan.engines.backend import Backend
from slidescan.engines.ensemble import Ensemble
from slidescan.engines.patchwise import Patchwise
from slidescan.errors import ConfigError
from slidescan.geometry import SMALLEST_STRIDE_PX, Field
from slidescan.protocols import Engine

Mode = Literal["dense", "patch"]
"""dense: fully convolutional, what neighbouring cells share is computed once. patch: each cell
from its own patch."""


def choose_stride(ensemble: Ensemble, mode: Mode, wanted: int | None) -> int:
    """Scan-plane px between a map's cells: those `wanted`, else the models' own stride.

    Raises `ConfigError` where a padded model is to scan densely, where models differ in stride and
    none is wanted, or where the mode does not have the one that is.
    """
    if mode == "dense":
        _check_valid(ensemble)
    stride = ensemble.stride_px if wanted is None else wanted
    if stride is None:
        strides = {model.card.name: model.card.stride_px for model in ensemble.models}
        named = " and ".join(f"{name} has stride {px} px" for name, px in strides.items())
        raise ConfigError(
            f"--model: {named}, and a map has one; name it, e.g. --stride {min(strides.values())}"
        )
    # Even, so that a patch is centred on its cell; no wider than a patch, so that every pixel of
    # the tissue is seen.
    if stride not in range(2, ensemble.field_px + 1, 2):
        raise ConfigError(
            f"--stride {stride}: not an even number of pixels from 2 to {ensemble.field_px}; an "
            "odd one would not centre patches on cells, a larger one leave pixels that none sees"
        )
    if mode == "dense":
        _check_dense(ensemble, stride)
    return stride


def make(ensemble: Ensemble, mode: Mode, stride_px: int, backend: Backend) -> Engine:
    """What scans in this mode at this stride, one that `choose_stride` let pass."""
    if mode == "dense":
        return ensemble.engine(backend, stride_px)
    by_patch = ensemble.engine(backend)
    return Patchwise(by_patch, Field(0, ensemble.field_px, stride_px))


def is_finer(ensemble: Ensemble, mode: Mode, stride_px: int) -> bool:
    """Whether a tile takes several times the memory that it takes at the models' own stride."""
    return mode == "dense" and any(stride_px < m.card.stride_px for m in ensemble.models)


def _check_dense(ensemble: Ensemble, stride: int) -> None:
    for model in ensemble.models:
        native = model.card.stride_px
        if stride not in dense.dense(native, ensemble.field_px):
            raise ConfigError(
                f"--stride {stride}: dense scanning has {model.card.name}'s own stride, {native} "
                f"px, its multiples to {ensemble.field_px} px and its halves to "
                f"{SMALLEST_STRIDE_PX} px; use --mode patch for any other even number"
            )


def _check_valid(ensemble: Ensemble) -> None:
    for model in ensemble.models:
        if not model.card.plan.valid:
            raise ConfigError(
                f"--model {model.card.name}: pads with zeros, so what it says of a patch depends "
                "on where the patch's border lies, and a fully convolutional scan would not equal "
                "its patches; use --mode patch"
            )
