"""Training settings: strict, every default stated in configs/pcam.yaml as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from slidescan.errors import ConfigError, describe
from slidescan.geometry import LABEL_PX
from slidescan.networks.plan import AnyPlan, CellPlan, Count, LayerPlan, NasnetPlan, Settings
from slidescan_train.recipe.shipped import locate

Probability = Annotated[float, Field(ge=0, le=1)]
# Not strict, as counts are: YAML 1.1 reads 3e-3 as a string.
Positive = Annotated[float, Field(gt=0)]
Switch = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the range ends, at {ends[1]:g}, below its start, {ends[0]:g}")
    return ends


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


Percent = Annotated[int, Field(ge=1, le=100, strict=True)]
Odd = Annotated[int, Field(ge=3, le=31, strict=True), AfterValidator(_odd)]
Sigma = Annotated[float, Field(gt=0, le=5)]
Deviation = Annotated[float, Field(gt=0, le=1)]

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


class Draw(Settings):
    """One augmentation: its probability, and in subclasses its range."""

    p: Probability


class Turn(Draw):
    """Flips and rotations by 90 degrees: exact, and the label region stays in the centre."""


class Stain(Draw):
    """Stain augmentation: haematoxylin and eosin separately (Tellez et al. 2018)."""

    scale: Share = 0.2
    """The intensity of each stain is multiplied by 1 +- this."""
    shift: Share = 0.1
    """The optical density of each stain is shifted by +- this, except on glass."""


class Hue(Draw):
    """Hue and saturation augmentation: stains of laboratories that are not in the data.

    Tellez et al. 2019, https://doi.org/10.1016/j.media.2019.101544. Glass has no colour and does
    not change.
    """

    turn: Annotated[float, Field(ge=0, le=0.5)] = 0.5
    """Largest shift of the hue either way, as a share of the colour circle; 0.5 gives any hue."""
    saturation: Share = 0.5
    """The saturation is multiplied by 1 +- this."""


class Crop(Draw):
    """Random crop: edges are cut off and filled with white, as the scanner reads outside a slide.

    The network needs its whole field of view, and enlarging the rest would change the resolution.
    The label region is never cut.
    """

    most_px: Annotated[int, Field(ge=1, le=32, strict=True)] = 24
    """Widest strip that is cut from an edge; the label region begins 32 px from it."""


class Blur(Draw):
    """Gaussian blur, as out of focus."""

    sigma_px: Annotated[tuple[Sigma, Sigma], AfterValidator(_rising)] = (0.5, 1.5)


class Rotation(Draw):
    """Rotation by a small angle; edges are mirrored.

    The label refers to an upright 32 px square: at 15 degrees its corners move by 6 px.
    """

    degrees: Annotated[float, Field(gt=0, le=15)] = 10.0


LABELLED_PX = 4
"""The longest translation under which a label still holds for the centre of a patch."""


class Translation(Draw):
    """Translation by whole pixels; edges are mirrored.

    A translation beyond `LABELLED_PX` can move tumour into or out of the labelled square. The new
    centre has no label then; only a teacher's probability can be the target. Eight ninths of a
    patch are margin without a label, so such translations show the network more tissue. Up to 32 px
    the centre contains no mirrored tissue.
    """

    px: Annotated[int, Field(ge=1, le=LABEL_PX, strict=True)] = 3


class FancyPCA(Draw):
    """Colour shift along the principal axes of the colours (Krizhevsky et al. 2012)."""

    alpha: Positive = 0.1
    """Standard deviation of the shift, as a share of that of the colours along the axis."""


class Brightness(Draw):
    """Brightness shifted by +- this share of the full scale."""

    brightness: Share = 0.2


class Saturation(Draw):
    """Saturation multiplied by a factor from 1 to 1 + this."""

    saturation: Positive = 0.5


class MotionBlur(Draw):
    """Motion blur: along a line of this many pixels in any direction."""

    length_px: Annotated[tuple[Odd, Odd], AfterValidator(_rising)] = (3, 7)
    """Odd, so that the line is centred: an even length would move the label region."""


class Contrast(Draw):
    """Contrast changed by +- this share."""

    contrast: Share = 0.2


class GaussNoise(Draw):
    """Gaussian noise; standard deviation as a share of the full scale."""

    std: Annotated[tuple[Deviation, Deviation], AfterValidator(_rising)] = (0.01, 0.05)


class ContrastBlur(Contrast, Blur):
    """Contrast, then blur."""


class ContrastBrightness(Contrast, Brightness):
    """Contrast and brightness."""


class BrightnessBlur(Brightness, Blur):
    """Brightness, then blur."""


class BrightnessNoise(Brightness, GaussNoise):
    """Brightness, then noise."""


class JPEG(Draw):
    """JPEG compression."""

    quality: Annotated[tuple[Percent, Percent], AfterValidator(_rising)] = (50, 95)


class OneOf(Settings):
    """At most one of these is applied to a patch; their probabilities add up to 1 or less."""

    blur: Blur = Blur(p=0)
    rotation: Rotation = Rotation(p=0)
    translation: Translation = Translation(p=0)
    fancy_pca: FancyPCA = FancyPCA(p=0)
    brightness: Brightness = Brightness(p=0)
    saturation: Saturation = Saturation(p=0)
    motion_blur: MotionBlur = MotionBlur(p=0)
    contrast: Contrast = Contrast(p=0)
    gauss_noise: GaussNoise = GaussNoise(p=0)
    contrast_blur: ContrastBlur = ContrastBlur(p=0)
    contrast_brightness: ContrastBrightness = ContrastBrightness(p=0)
    brightness_blur: BrightnessBlur = BrightnessBlur(p=0)
    brightness_noise: BrightnessNoise = BrightnessNoise(p=0)
    jpeg: JPEG = JPEG(p=0)

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        total = sum(getattr(self, name).p for name in type(self).model_fields)
        if total > 1 + 1e-9:
            raise ValueError(f"its probabilities add up to {total:g}; at most one is drawn, so 1")
        return self


class AugmentConfig(Settings):
    """All augmentations, in their order; drawn anew for every patch and epoch."""

    d4: Turn = Turn(p=1.0)
    stain: Stain = Stain(p=0.5)
    hue: Hue = Hue(p=0.5)
    one_of: OneOf = OneOf(**{name: {"p": 0.06} for name in OneOf.model_fields})
    crop: Crop = Crop(p=0.1)


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
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the patches held out, unless the data have their own split."""
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
    label_smoothing: Share = 0.02
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of the Beta distribution of mixup; 0: no mixup."""
    distil: DistilConfig = DistilConfig()
    ema: Share = 0.998
    """Decay of the averaged weights, which are evaluated and saved."""
    clip: Positive | None = 5.0
    """Largest gradient norm; null: no limit."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
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
        settings = yaml.safe_load(path.read_bytes())
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
        value = yaml.safe_load(text)
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
