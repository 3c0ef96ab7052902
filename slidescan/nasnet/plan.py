"""The plan of a network: stem, cells, head and normalisation, as configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Strict: pydantic would take `true` as 1.
Count = Annotated[int, Field(ge=1, strict=True)]
Channel = Annotated[float, Field(gt=0, lt=1)]


class Settings(BaseModel):
    """Values that do not change; unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StemPlan(Settings):
    """One dense convolution before the cells. One of them has an even kernel: odd kernels alone
    give a field of 95 px, half a pixel off the label region."""

    kernel: Count = 4
    stride: Literal[1, 2] = 1
    filters: Count = 32


class CellPlan(Settings):
    """One cell; its output has 6 (normal) or 4 (reduction) times `filters` channels."""

    kind: Literal["normal", "reduction"]
    filters: Count
    separables: Literal[1, 2] = 1
    """Convolutions per separable branch: 2 as published, 1 for a smaller margin."""


class HeadPlan(Settings):
    """Pools the central grid, then classifies: the label says "any tumour in the centre"."""

    pool: Literal["mean", "max"] = "mean"
    grid: Count = 1
    """Side of the pooled grid, in cells of the last stride."""


class Plan(Settings):
    """Everything that determines a network but its weights."""

    arch: Literal["nasnet-a"] = "nasnet-a"
    stem: Annotated[tuple[StemPlan, ...], Field(min_length=1)]
    cells: Annotated[tuple[CellPlan, ...], Field(min_length=1)]
    head: HeadPlan = HeadPlan()
    mean: tuple[Channel, Channel, Channel] = (0.70, 0.54, 0.69)
    """Of red, green and blue in [0, 1]; the defaults are PatchCamelyon's, rounded."""
    std: tuple[Channel, Channel, Channel] = (0.24, 0.28, 0.22)
