"""Bodies without zero padding: NASNet-A, and dense layers only."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from slidescan.geometry import Field
from slidescan.networks.body import Body
from slidescan.networks.cells import Cell, norm
from slidescan.networks.genotype import NORMAL, REDUCTION
from slidescan.networks.plan import LayerPlan, NasnetPlan, PlainPlan

_GENOTYPES = {"normal": NORMAL, "reduction": REDUCTION}


def _dense(plans: Sequence[LayerPlan]) -> tuple[nn.Sequential, int, Field]:
    """Convolutions with BN and pools, with a ReLU between two convolutions and none at the end.

    Returns the layers, their number of channels and their field.
    """
    layers: list[nn.Module] = []
    channels, field, active = 3, Field(), True
    for plan in plans:
        if plan.filters is None:
            layers.append(nn.MaxPool2d(plan.kernel, plan.stride))
        else:
            if not active:
                layers.append(nn.ReLU())
            convolution = nn.Conv2d(channels, plan.filters, plan.kernel, plan.stride, bias=False)
            layers += [convolution, norm(plan.filters)]
            channels, active = plan.filters, False
        field = field.then(plan.kernel, plan.stride)
    return nn.Sequential(*layers), channels, field


class Plain(Body):
    """Dense layers only."""

    def __init__(self, plan: PlainPlan) -> None:
        super().__init__()
        self.layers, self.channels, self.field = _dense(plan.layers)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


class Nasnet(Body):
    """NASNet-A without padding: a dense stem, then cells."""

    def __init__(self, plan: NasnetPlan) -> None:
        super().__init__()
        self.stem, channels, field = _dense(plan.stem)
        current = previous = (channels, field)
        self.cells = nn.ModuleList()
        for part in plan.cells:
            cell = Cell(_GENOTYPES[part.kind], part.filters, part.separables, current, previous)
            self.cells.append(cell)
            current, previous = (cell.channels, cell.field), current
        self.channels, self.field = current

    def forward(self, x: Tensor) -> Tensor:
        current = previous = self.stem(x)
        for cell in self.cells:
            current, previous = cell(current, previous), current
        features: Tensor = current
        return features
