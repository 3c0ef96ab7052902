"""Training settings: strict, every default stated in configs/pcam.yaml as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from slidescan.errors import ConfigError, describe
from slidescan.networks.plan import AnyPlan, CellPlan, Count, LayerPlan, NasnetPlan, Settings
from slidescan.tools.regular_files import MB, read_regular
from slidescan_train.recipe.augment_config import LABELLED_PX, AugmentConfig
from slidescan_train.recipe.ranges import Positive, Probability, Share
from slidescan_train.recipe.shipped import locate
from slidescan_train.recipe.yaml_files import load_yaml

Switch = Annotated[bool, Field(strict=True)]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

DEFAULT_PLAN = NasnetPlan(
    # Dense convolutions at high resolution, NASNet cells at low resolution: on a CPU separable
    # convolutions are limited by memory bandwidth, dense ones by arithmetic.
    stem=(
        LayerPlan(kernel=4, stride=2, filters=32),
        LayerPlan(kernel=3, filters=64),
        LayerPlan(kernel=4, stride=2, filters=128),
        LayerPlan(kernel=3, filters=128),
    ),
    cells=(
        CellPlan(kind="reduction", filters=128),
        CellPlan(kind="normal", filters=128),
    ),
)


class DistilConfig(Settings):
    """Distillation from a teacher (Hinton et al. 2015); used if one is given."""

    weight: Probability = 0.9
    """Weight of the teacher's probabilities in the loss; the labels have the rest."""
    temperature: Positive = 2.0


class TrainConfig(Settings):
    """All settings of a training run."""

    plan: AnyPlan = DEFAULT_PLAN
    augment: AugmentConfig = AugmentConfig()
    epochs: Count = 60
    patience: Count | None = None
    """Stop after this number of epochs without a better validation AUC; null: never."""
    validation: Share = 0.1
    """Share of the patches held out, unless the data have their own split; 0: none."""
    batch: Annotated[int, Field(ge=2, strict=True)] = 64
    """Patches per optimiser step, over all micro-batches and processes."""
    micro_batch: Annotated[int, Field(ge=2, strict=True)] = 64
    """Patches per forward pass, over which BatchNorm averages; limited by memory."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 3e-3
    momentum: Share = 0.9
    """Momentum of SGD, or the first beta of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """On convolution weights, not on BatchNorm and biases."""
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine"
    warm_up: Share = 0.05
    """Share of all steps in which the learning rate rises."""
    dropout: Share = 0.0
    """Share of the classifier's input channels that are set to 0, in training only."""
    label_smoothing: Share = 0.02
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of the Beta distribution of mixup; 0: no mixup."""
    distil: DistilConfig = DistilConfig()
    ema: Share = 0.998
    """Decay of the averaged weights, which are evaluated and saved."""
    clip: Positive | None = 5.0
    """Largest gradient norm; null: no limit."""
    precision: Precision = "bf16-mixed"
    """A CPU without bf16 takes 32-true instead."""
    compile: Switch = False
    """torch.compile: faster steps after a minute or two of compiling."""
    deterministic: Switch = False
    """Reproducible weights on a GPU too, slower; on a CPU they always are."""
    workers: Annotated[int, Field(ge=0, strict=True)] | None = None
    """Processes that prepare batches; 0: a thread; null: a thread on a CPU, all cores on a GPU."""
    checkpoint_minutes: Positive = 10.0
    """Minutes between checkpoints within an epoch; every epoch ends with one."""
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0

    @model_validator(mode="after")
    def _true_labels(self) -> Self:
        if not self.labelled and self.distil.weight < 1:
            raise ValueError(
                f"augment.one_of.translation.px: labels hold up to {LABELLED_PX} px; "
                f"beyond that only a teacher counts: set distil.weight to 1, not "
                f"{self.distil.weight:g}"
            )
        return self

    @property
    def labelled(self) -> bool:
        """Whether labels hold for every augmented patch."""
        shift = self.augment.one_of.translation
        return shift.p == 0 or shift.px <= LABELLED_PX


def load_config(path: Path | None, changes: Iterable[str] = ()) -> TrainConfig:
    """Read a YAML file or a shipped configuration by its name; without one, the defaults.

    `changes` are `key=value`, values in YAML, nested keys with dots: `augment.stain.p=0.3`.
    Raises `ConfigError` naming the key.
    """
    config = TrainConfig() if path is None else _read(locate(path))
    settings = config.model_dump(mode="json")
    try:
        for change in changes:
            settings = _changed(settings, change)
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"--set: {describe(error)}") from error


def _read(path: Path) -> TrainConfig:
    try:
        settings = load_yaml(read_regular(path, MB))
        return TrainConfig.model_validate({} if settings is None else settings)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from error


def _changed(settings: Any, change: str) -> Any:
    """Return `settings` with `change` made; items of lists by number: `plan.cells.0.filters`."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {change!r}: needs key=value, e.g. --set learning_rate=0.01")
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: its value is not YAML") from error
    return _put(settings, key.split("."), value, "")


def _put(settings: Any, keys: list[str], value: Any, path: str) -> Any:
    """Return `settings` with the value at `keys` replaced; `path` names their place in messages."""
    if not keys:
        return value
    key, *rest = keys
    path = f"{path}.{key}" if path else key
    if isinstance(settings, list):
        if not (key.isdigit() and int(key) < len(settings)):
            raise ConfigError(f"--set {path}: the list has {len(settings)} items, from 0")
        at = int(key)
        return [*settings[:at], _put(settings[at], rest, value, path), *settings[at + 1 :]]
    inner = settings if isinstance(settings, Mapping) else {}
    return {**inner, key: _put(inner.get(key), rest, value, path)}
