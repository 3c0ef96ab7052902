"""The whole network: normalisation, body, head, and calibration if it has been fitted."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from slidescan.errors import ConfigError
from slidescan.geometry import LABEL_PX, PATCH_PX, Field
from slidescan.networks.body import Body
from slidescan.networks.calibration import Calibrate
from slidescan.networks.cells import Crop
from slidescan.networks.efficientnet_lite import EfficientNetLite
from slidescan.networks.heads import global_head, make_head
from slidescan.networks.logit_map import LogitMap
from slidescan.networks.nasnet_mobile import NasnetMobile
from slidescan.networks.plan import LitePlan, MobilePlan, NasnetPlan, PlainPlan, Plan
from slidescan.networks.valid import Nasnet, Plain


class Normalise(nn.Module):
    """Pixel values 0..255 to zero mean and unit variance, per channel.

    As a product and a sum. If the mean were subtracted first, an engine could move the division
    into the next layer and round the pixels to bf16, whose steps are 1 at these values.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        centre, spread = (torch.tensor(each, dtype=torch.float64) for each in (mean, std))
        scale, shift = 1 / (255 * spread), -centre / spread
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(1, -1, 1, 1), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Network(nn.Module):
    """A patch classifier; without padding it is also a fully convolutional network.

    `forward` takes RGB (N, 3, H, W) with values 0..255 and gives logits.

    Without padding (a valid plan) the logits are (N, 2, h, w), h = field.outputs(H): a patch gives
    one output, a larger image one per `field.stride` pixels. `field` is exactly `PATCH_PX` wide; a
    smaller field of view is centred in it by a crop. A larger or an odd one raises `ConfigError`.

    With padding it takes patches only and gives (N, 2, 1, 1). Its stride is the side of the label
    region.

    `calibration` maps the logits; there is none during training.
    """

    def __init__(self, plan: Plan, calibration: LogitMap | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.calibration = calibration
        self.normalise = Normalise(plan.mean, plan.std)
        self.body = _body(plan)
        if isinstance(plan, NasnetPlan | PlainPlan):
            self.head = make_head(plan.head, self.body.channels)
            self.crop, self.field = _centre(_seen(self.body).then(plan.head.grid))
        else:
            self.head = global_head(self.body.channels)
            self.crop, self.field = Crop(0), Field(0, PATCH_PX, LABEL_PX)
        self.calibrate: nn.Module = Calibrate(calibration) if calibration else nn.Identity()
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.calibrate(self.head(self.body(self.normalise(self.crop(x)))))
        return logits

    def uncalibrated(self) -> Network:
        """A copy without calibration, for training or for a new calibration."""
        plain = copy.deepcopy(self)
        plain.calibration, plain.calibrate = None, nn.Identity()
        return plain


def body_parameters(plan: Plan) -> int:
    """Parameters of a plan's body, nearly all of the network's; takes no memory for them.

    Raises `ConfigError` where the field of view exceeds a patch.
    """
    # Shapes without values. The rest of a network computes with its values, for which torch would
    # import its compiler.
    with torch.device("meta"):
        body = _body(plan)
    if isinstance(plan, NasnetPlan | PlainPlan):
        _centre(_seen(body).then(plan.head.grid))
    return sum(each.numel() for each in body.parameters())


def _body(plan: Plan) -> Body:
    match plan:
        case NasnetPlan():
            return Nasnet(plan)
        case PlainPlan():
            return Plain(plan)
        case MobilePlan():
            return NasnetMobile()
        case LitePlan():
            return EfficientNetLite(plan)
    raise TypeError(f"no architecture {plan.arch!r}")


def probability(logits: Tensor) -> Tensor:
    """P(tumour) (N, h, w) of logits (N, 2, h, w): the second class of a softmax."""
    return torch.sigmoid(logits[:, 1] - logits[:, 0])


def _seen(body: Body) -> Field:
    assert body.field is not None
    return body.field


def _centre(field: Field) -> tuple[Crop, Field]:
    """The crop that centres a field of view in a patch, and the field of the whole network."""
    if field.size % 2:
        raise ConfigError(
            f"plan: its field of view is {field.size} px, an odd number, which cannot be centred "
            f"in a patch of {PATCH_PX} px; make one kernel of the stem even"
        )
    if field.stride % 2:
        raise ConfigError(
            "plan: its stride is 1 px, so its field of view cannot be centred on a cell; give the "
            "stem a stride of 2 or add a reduction cell"
        )
    if field.size > PATCH_PX:
        raise ConfigError(
            f"plan: it needs a margin of {field.size // 2 - 1} px on each side and a patch of "
            f"{PATCH_PX} px has {PATCH_PX // 2 - 1} px; take fewer cells, or place them before the "
            "reductions"
        )
    return Crop((PATCH_PX - field.size) // 2), Field(0, PATCH_PX, field.stride)


def _initialise(network: Network) -> None:
    """He initialisation (He et al. 2015); the classifier starts at a probability of 0.5."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    classifier = network.head.classifier
    nn.init.zeros_(classifier.weight)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)
