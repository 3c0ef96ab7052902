"""The whole network: normalise, stem, cells, head, and calibration where it has been fitted.

Valid everywhere, field and stride derived.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from slidescan.errors import ConfigError
from slidescan.geometry import PATCH_PX, Field
from slidescan.nasnet.calibration import Calibrate, LogitMap
from slidescan.nasnet.cells import Cell, Crop, norm
from slidescan.nasnet.genotype import NORMAL, REDUCTION
from slidescan.nasnet.plan import HeadPlan, Plan, StemPlan

CLASSES = 2
"""Normal and tumour: the recipe's two-class softmax."""

_GENOTYPES = {"normal": NORMAL, "reduction": REDUCTION}
_POOLS = {"mean": nn.AvgPool2d, "max": nn.MaxPool2d}


class Normalise(nn.Module):
    """Pixel values 0..255 to zero mean and unit variance, per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _stem(plans: tuple[StemPlan, ...]) -> tuple[nn.Sequential, int, Field]:
    """Convolution and BN, a ReLU between two of them; the first cell brings its own ReLU."""
    layers: list[nn.Module] = []
    channels, field = 3, Field()
    for plan in plans:
        if layers:
            layers.append(nn.ReLU())
        layers += [
            nn.Conv2d(channels, plan.filters, plan.kernel, plan.stride, bias=False),
            norm(plan.filters),
        ]
        channels, field = plan.filters, field.then(plan.kernel, plan.stride)
    return nn.Sequential(*layers), channels, field


def _head(plan: HeadPlan, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), _POOLS[plan.pool](plan.grid, stride=1), nn.Conv2d(channels, CLASSES, 1)
    )


class Network(nn.Module):
    """Valid NASNet: a patch gives one output, a larger image one per `field.stride` pixels.

    `forward` takes RGB (N, 3, H, W) with values 0..255 and gives logits (N, 2, h, w), where
    h = field.outputs(H). `field` is exactly `PATCH_PX` wide; a plan that sees less is centred in
    it by a crop, one that needs more, or an odd number, raises `ConfigError`. `calibration` maps
    the logits that come out; training has none.
    """

    def __init__(self, plan: Plan, calibration: LogitMap | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.calibration = calibration
        self.normalise = Normalise(plan.mean, plan.std)
        self.stem, channels, field = _stem(plan.stem)
        current = previous = (channels, field)
        self.cells = nn.ModuleList()
        for part in plan.cells:
            cell = Cell(_GENOTYPES[part.kind], part.filters, part.separables, current, previous)
            self.cells.append(cell)
            current, previous = (cell.channels, cell.field), current
        self.head = _head(plan.head, current[0])
        self.crop, self.field = _centre(current[1].then(plan.head.grid))
        self.calibrate: nn.Module = Calibrate(calibration) if calibration else nn.Identity()
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        current = previous = self.stem(self.normalise(self.crop(x)))
        for cell in self.cells:
            current, previous = cell(current, previous), current
        logits: Tensor = self.calibrate(self.head(current))
        return logits

    def uncalibrated(self) -> Network:
        """A copy that gives the logits as they are, for training and for another calibration."""
        plain = copy.deepcopy(self)
        plain.calibration, plain.calibrate = None, nn.Identity()
        return plain


def probability(logits: Tensor) -> Tensor:
    """P(tumour), (N, h, w), of logits (N, 2, h, w): the softmax's second class."""
    return torch.sigmoid(logits[:, 1] - logits[:, 0])


def _centre(field: Field) -> tuple[Crop, Field]:
    """Place a plan's field in the middle of a patch."""
    if field.size % 2:
        raise ConfigError(
            f"plan: its field of view is {field.size} px, an odd number, which cannot be centred "
            f"on a patch of {PATCH_PX} px; make one kernel of the stem even"
        )
    if field.stride % 2:
        raise ConfigError(
            "plan: it has no stride, so its field of view cannot be centred on a cell; give the "
            "stem a stride of 2 or add a reduction cell"
        )
    if field.size > PATCH_PX:
        raise ConfigError(
            f"plan: it needs a margin of {field.size // 2 - 1} px on each side and a patch of "
            f"{PATCH_PX} px has {PATCH_PX // 2 - 1} px; take fewer cells, or take them later"
        )
    return Crop((PATCH_PX - field.size) // 2), Field(0, PATCH_PX, field.stride)


def _initialise(network: Network) -> None:
    """He initialisation (He et al. 2015); the classifier starts at even odds."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    classifier = network.head[-1]
    assert isinstance(classifier, nn.Conv2d)
    nn.init.zeros_(classifier.weight)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)
