"""The two modes of a scan: the network on whole tiles (dense), or on each patch (patch)."""

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
"""dense: fully convolutional; what neighbouring cells share is computed once. patch: each cell is
computed from its own patch."""


def choose_stride(ensemble: Ensemble, mode: Mode, wanted: int | None) -> int:
    """The stride of a map in scan-plane px: `wanted`, or else the models' own.

    Raises `ConfigError` for a model with zero padding in dense mode, for models of different
    strides if none is wanted, and for a stride that the mode does not have.
    """
    if mode == "dense":
        _check_valid(ensemble)
    stride = ensemble.stride_px if wanted is None else wanted
    if stride is None:
        strides = {model.card.name: model.card.stride_px for model in ensemble.models}
        named = " and ".join(f"{name} has stride {px} px" for name, px in strides.items())
        raise ConfigError(
            f"--model: {named}; a map has one stride, so name it, e.g. --stride "
            f"{min(strides.values())}"
        )
    # An even stride centres patches on cells. A stride of at most a patch leaves no pixel out.
    if stride not in range(2, ensemble.field_px + 1, 2):
        raise ConfigError(
            f"--stride {stride}: not an even number of pixels from 2 to {ensemble.field_px}; with "
            "an odd stride patches are not centred on cells, with a larger one pixels are left out"
        )
    if mode == "dense":
        _check_dense(ensemble, stride)
    return stride


def make(ensemble: Ensemble, mode: Mode, stride_px: int, backend: Backend) -> Engine:
    """Build the engine of a mode at a stride of `choose_stride`."""
    if mode == "dense":
        return ensemble.engine(backend, stride_px)
    by_patch = ensemble.engine(backend)
    return Patchwise(by_patch, Field(0, ensemble.field_px, stride_px))


def is_finer(ensemble: Ensemble, mode: Mode, stride_px: int) -> bool:
    """Whether the stride is finer than a model's own, which takes several times the memory."""
    return mode == "dense" and any(stride_px < m.card.stride_px for m in ensemble.models)


def _check_dense(ensemble: Ensemble, stride: int) -> None:
    for model in ensemble.models:
        native = model.card.stride_px
        if stride not in dense.strides(native, ensemble.field_px):
            raise ConfigError(
                f"--stride {stride}: a dense scan takes {model.card.name}'s own stride, {native} "
                f"px, its multiples to {ensemble.field_px} px and its halves to "
                f"{SMALLEST_STRIDE_PX} px; use --mode patch for any other even number"
            )


def _check_valid(ensemble: Ensemble) -> None:
    for model in ensemble.models:
        if not model.card.plan.valid:
            raise ConfigError(
                f"--model {model.card.name}: pads with zeros, so a score depends on where the "
                "image ends, and a dense scan would not equal the scores of patches; use "
                "--mode patch"
            )
