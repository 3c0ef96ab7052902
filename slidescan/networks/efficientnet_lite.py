"""EfficientNet-Lite of the package `efficientnet-lite-pytorch`, as a body."""

from __future__ import annotations

from torch import Tensor, nn

from slidescan.errors import ConfigError
from slidescan.networks.body import Body
from slidescan.networks.plan import LitePlan
from slidescan.tools.extras import install_command


class EfficientNetLite(Body):
    """EfficientNet-Lite up to the last ReLU6, with zero padding as published."""

    field = None

    def __init__(self, plan: LitePlan) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ConfigError(
                f"arch efficientnet-lite needs a package; run: {install_command('teacher')}"
            ) from error
        # Without dropout and dropped blocks: a training step's random draws depend on its patches
        # only.
        network = EfficientNet.from_name(f"efficientnet-lite{plan.size}", drop_connect_rate=0.0)
        network._dropout = network._fc = nn.Identity()
        self.network = network
        self.channels = network._conv_head.out_channels
        self.enlarge: nn.Module = nn.Identity()
        if plan.enlarge > 1:
            self.enlarge = nn.Upsample(scale_factor=plan.enlarge, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(self.enlarge(x))
        return features
