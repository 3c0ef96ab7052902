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
        raise ValueError("an odd number is wanted")
    return value


Percent = Annotated[int, Field(ge=1, le=100, strict=True)]
Odd = Annotated[int, Field(ge=3, le=31, strict=True), AfterValidator(_odd)]
Sigma = Annotated[float, Field(gt=0, le=5)]
Deviation = Annotated[float, Field(gt=0, le=1)]

DEFAULT_PLAN = NasnetPlan(
    # Dense convolutions where there are many pixels, cells where there are few: on a CPU
    # separable convolutions are bound by memory, dense ones by arithmetic.
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
    """One augmentation: how often a patch goes through it, and its range below."""

    p: Probability


class Turn(Draw):
    """Flips and quarter turns: exact, and the label region stays where it is."""


class Stain(Draw):
    """Haematoxylin and eosin jittered apart, as laboratories differ (Tellez et al. 2018)."""

    scale: Share = 0.2
    """Each stain's strength is multiplied by 1 +- this."""
    shift: Share = 0.1
    """And changed by +- this, as an optical density; glass takes none of it."""


class Hue(Draw):
    """Colours turned around the circle of hues, and their saturation changed: the stains of
    laboratories that no patch is from (Tellez et al. 2019,
    https://doi.org/10.1016/j.media.2019.101544). Glass has no colour and stays as it is."""

    turn: Annotated[float, Field(ge=0, le=0.5)] = 0.5
    """Of the circle, at most, either way; half of it is any hue at all."""
    saturation: Share = 0.5
    """Saturation is multiplied by 1 +- this."""


class Crop(Draw):
    """Some edges are cut off and read as white, as the scanner reads what is beyond a slide.

    The network takes nothing smaller than its field, and enlarging the rest would change the
    resolution; so the cut edges are made empty. The label region always stays whole.
    """

    most_px: Annotated[int, Field(ge=1, le=32, strict=True)] = 24
    """Widest strip cut from an edge; the label region begins 32 px from it."""


class Blur(Draw):
    """Gaussian blur: a slide out of focus."""

    sigma_px: Annotated[tuple[Sigma, Sigma], AfterValidator(_rising)] = (0.5, 1.5)


class Rotation(Draw):
    """By any small angle; edges are mirrored.

    The label speaks of an upright 32 px square: at 15 degrees its corners move by 6 px.
    """

    degrees: Annotated[float, Field(gt=0, le=15)] = 10.0


LABELLED_PX = 4
"""The longest shift after which a label still says what is in the middle of a patch."""


class Translation(Draw):
    """By whole pixels; edges are mirrored. A shift beyond `LABELLED_PX` moves tumour out of the
    square that the label speaks of, or into it: what is there now a teacher alone can say.

    Eight ninths of a patch are margin that no label speaks of; so far shifted, every part of it
    is in the middle at times. Up to 32 px the square holds no mirrored tissue.
    """

    px: Annotated[int, Field(ge=1, le=LABEL_PX, strict=True)] = 3


class FancyPCA(Draw):
    """Colours moved along their principal axes (Krizhevsky et al. 2012)."""

    alpha: Positive = 0.1
    """Standard deviation of the move, as a share of that of the colours along the axis."""


class Brightness(Draw):
    """Brightness changed by +- a share of the full scale."""

    brightness: Share = 0.2


class Saturation(Draw):
    """Colour saturation multiplied by 1 to 1 + this."""

    saturation: Positive = 0.5


class MotionBlur(Draw):
    """The stage moved: a line of this many pixels in any direction."""

    length_px: Annotated[tuple[Odd, Odd], AfterValidator(_rising)] = (3, 7)
    """Odd, so that the line has a middle: another would move the label region."""


class Contrast(Draw):
    """Contrast changed by +- this share."""

    contrast: Share = 0.2


class GaussNoise(Draw):
    """Noise of the sensor; standard deviation as a share of the full scale."""

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
    """Compression, as scanners save their slides."""

    quality: Annotated[tuple[Percent, Percent], AfterValidator(_rising)] = (50, 95)


class OneOf(Settings):
    """At most one of these changes a patch; what their probabilities leave is untouched."""

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
    """What a patch goes through, drawn anew for every patch and epoch, in this order."""

    d4: Turn = Turn(p=1.0)
    stain: Stain = Stain(p=0.5)
    hue: Hue = Hue(p=0.5)
    one_of: OneOf = OneOf(**{name: {"p": 0.06} for name in OneOf.model_fields})
    crop: Crop = Crop(p=0.1)


class DistilConfig(Settings):
    """How a student follows its teacher (Hinton et al. 2015); used where one is given."""

    weight: Probability = 0.9
    """Of the teacher's soft labels; the rest is that of the labels."""
    temperature: Positive = 2.0


class TrainConfig(Settings):
    """One training run. Rates are per optimiser step, times in epochs."""

    plan: AnyPlan = DEFAULT_PLAN
    augment: AugmentConfig = AugmentConfig()
    epochs: Count = 60
    patience: Count | None = None
    """Stop after so many epochs without a better validation AUC; null: never."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the patches held out, unless the data bring a split of their own."""
    batch: Annotated[int, Field(ge=2, strict=True)] = 64
    """Patches of one optimiser step, over all micro-batches and processes."""
    micro_batch: Annotated[int, Field(ge=2, strict=True)] = 64
    """Patches of one forward pass, which BatchNorm sees; more memory allows more."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 3e-3
    momentum: Share = 0.9
    """Of SGD, or AdamW's first beta."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """On convolution weights alone: BatchNorm and biases are spared."""
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine"
    warm_up: Share = 0.05
    """Share of all steps in which the rate rises."""
    label_smoothing: Share = 0.02
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of the Beta distribution that pairs of patches are mixed by; 0: none."""
    distil: DistilConfig = DistilConfig()
    ema: Share = 0.998
    """Decay of the averaged weights, which are the ones evaluated and saved."""
    clip: Positive | None = 5.0
    """Largest gradient norm; null: any."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    compile: Switch = False
    """torch.compile: faster steps after a minute or two of compiling."""
    deterministic: Switch = False
    """The same weights again on a GPU too, slower; on a CPU they always are."""
    workers: Annotated[int, Field(ge=0, strict=True)] | None = None
    """Processes that prepare batches; 0: a thread; null: a thread on a CPU, all cores on a GPU."""
    checkpoint_minutes: Positive = 10.0
    """A checkpoint is kept at the end of each epoch, and within a longer one so often."""
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0

    @model_validator(mode="after")
    def _true_labels(self) -> Self:
        if not self.labelled and self.distil.weight < 1:
            raise ValueError(
                f"augment.one_of.translation.px: labels hold up to {LABELLED_PX} px, and beyond "
                f"that a teacher alone must count; distil.weight is {self.distil.weight:g}, not 1"
            )
        return self

    @property
    def labelled(self) -> bool:
        """Whether labels hold for every patch as it is augmented."""
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
    """`settings` with `change` made; a list's items go by their number, `plan.cells.0.filters`."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {change!r}: wants key=value, e.g. --set learning_rate=0.01")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: its value is not YAML") from error
    return _put(settings, key.split("."), value, "")


def _put(settings: Any, keys: list[str], value: Any, path: str) -> Any:
    """`settings` with the value at `keys` replaced; `path` leads to it."""
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
