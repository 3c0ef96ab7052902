"""Training settings: strict, every default stated in configs/pcam.yaml as well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from slidescan.errors import ConfigError, describe
from slidescan.nasnet.plan import CellPlan, Count, Plan, Settings, StemPlan

Probability = Annotated[float, Field(ge=0, le=1)]
# Not strict, as counts are: YAML 1.1 reads 3e-3 as a string.
Positive = Annotated[float, Field(gt=0)]

DEFAULT_PLAN = Plan(
    # Dense convolutions where there are many pixels, cells where there are few: on a CPU
    # separable convolutions are bound by memory, dense ones by arithmetic.
    stem=(
        StemPlan(kernel=4, stride=2, filters=32),
        StemPlan(kernel=3, filters=64),
        StemPlan(kernel=4, stride=2, filters=128),
        StemPlan(kernel=3, filters=128),
    ),
    cells=(
        CellPlan(kind="reduction", filters=128),
        CellPlan(kind="normal", filters=128),
    ),
)


class AugmentConfig(Settings):
    """What a patch goes through, drawn anew each time it is shown."""

    d4: bool = True
    """Flips and quarter turns: exact, and the label region stays where it is."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Colour jitter, as relative ranges around 1."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.15
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.25
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.04
    """As a share of the colour circle."""
    jitter: Probability = 0.8
    """How often the colours are jittered."""
    blur: Probability = 0.1
    """How often a Gaussian blur (3 or 5 px) stands in for a slide out of focus."""


class TrainConfig(Settings):
    """One training run. Rates are per optimiser step, times in epochs."""

    plan: Plan = DEFAULT_PLAN
    augment: AugmentConfig = AugmentConfig()
    epochs: Count = 60
    batch: Annotated[int, Field(ge=2, strict=True)] = 64
    """Patches of one micro-batch; BatchNorm has no variance to take from a single one."""
    accumulate: Count = 1
    """Micro-batches per optimiser step; BatchNorm sees one micro-batch at a time."""
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """On convolution weights alone: BatchNorm and biases are spared."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of all steps in which the rate rises; a cosine to zero follows."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.02
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Decay of the averaged weights, which are the ones evaluated and saved."""
    clip: Positive = 5.0
    """Largest gradient norm."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0


def load_config(path: Path | None) -> TrainConfig:
    """Read a YAML file; without one, the defaults. Raises `ConfigError` naming the key."""
    if path is None:
        return TrainConfig()
    try:
        settings = yaml.safe_load(path.read_bytes())
        return TrainConfig.model_validate({} if settings is None else settings)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from error
