"""Our valid cells are the interior of the published, padded ones, weight for weight.

The reference is `pretrainedmodels` 0.7.4 (Cadene), the widespread PyTorch port of NASNet-A Mobile.
Its package needs torchvision, which we do without, so its one file is loaded by path:
`pip install --no-deps pretrainedmodels==0.7.4`.
"""

from __future__ import annotations

import re
from types import ModuleType

import networks
import pytest
import torch
from torch import Tensor, nn

from slidescan.geometry import Field
from slidescan.networks.cells import Cell
from slidescan.networks.genotype import NORMAL, REDUCTION, Genotype, needs

CURRENT, PREVIOUS, FILTERS = 5, 7, 4
PUBLISHED = 2
"""Convolutions per separable branch in the published cells."""

TOLERANCE = 1e-12
"""Of the outputs' scale, in float64."""

CELLS = pytest.mark.parametrize(
    ("name", "genotype"),
    [("NormalCell", NORMAL), ("ReductionCell0", REDUCTION), ("ReductionCell1", REDUCTION)],
)
SIZES = pytest.mark.parametrize(
    "size", [(40, 40), (41, 43), (33, 46), (27, 30)], ids=lambda s: f"{s[0]}x{s[1]}"
)


def published_name(ours: str) -> str:
    """The reference's name of one of our parameters.

    A separable branch of ours is Sequential(Crop, Sequential(ReLU, depthwise, pointwise, BN, ReLU,
    depthwise, pointwise, BN)).
    """
    adjust = re.fullmatch(r"(current|previous)\.(conv|bn)\.(\w+)", ours)
    if adjust:
        source, layer, parameter = adjust.groups()
        return (
            f"{ {'current': 'conv_1x1', 'previous': 'conv_prev_1x1'}[source] }.{layer}.{parameter}"
        )
    branch = re.fullmatch(r"steps\.(\d)\.(\d)\.1\.(\d)\.(\w+)", ours)
    assert branch, ours
    step, side, layer, parameter = branch.groups()
    inside = {
        "1": "separable_1.depthwise_conv2d",
        "2": "separable_1.pointwise_conv2d",
        "3": "bn_sep_1",
        "5": "separable_2.depthwise_conv2d",
        "6": "separable_2.pointwise_conv2d",
        "7": "bn_sep_2",
    }[layer]
    return f"comb_iter_{step}_{('left', 'right')[int(side)]}.{inside}.{parameter}"


def pair(
    reference: ModuleType, name: str, genotype: Genotype, wider: int = 0
) -> tuple[Cell, nn.Module]:
    """Our cell and the reference's with the same random weights and BatchNorm statistics.

    The map of the cell before is `wider` by so many cells on each side, for it has seen less.
    """
    seen = Field(0, 21, 2)
    before = Field(0, 21 - 2 * wider * seen.stride, 2)
    ours = Cell(genotype, FILTERS, PUBLISHED, (CURRENT, seen), (PREVIOUS, before))
    networks.randomise(ours.double().eval(), seed=3)
    theirs: nn.Module = getattr(reference, name)(PREVIOUS, FILTERS, CURRENT, FILTERS)
    # Strict: no parameter of theirs is without its counterpart in ours, nor the reverse.
    theirs.double().eval().load_state_dict(
        {published_name(key): value for key, value in ours.state_dict().items()}, strict=True
    )
    return ours, theirs


def states(height: int, width: int, wider: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs of the last cell and of the one before, which may be `wider` on each side."""
    rng = torch.Generator().manual_seed(height * 100 + width)

    def noise(channels: int, rim: int) -> Tensor:
        shape = (2, channels, height + 2 * rim, width + 2 * rim)
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    return noise(CURRENT, 0), noise(PREVIOUS, wider)


def interior(genotype: Genotype, size: tuple[int, int]) -> tuple[slice, slice]:
    """Where our outputs lie among theirs.

    A cell of margin m spends m inputs on each side, so our output i is centred at input
    m + stride * i. Theirs, padded to keep the size, is centred at i in a normal cell and at
    2i + 1 in a reduction cell: `ZeroPad2d((1, 0, 1, 0))` with the usual padding centres window i
    at 2i - 1, then output 0 is cut off. So m + stride * i = stride * j + (stride - 1) gives
    j = i + (m - stride + 1) / stride: i + 4 (m = 4) and i + 6 (m = 13). Theirs is the same sum
    there because no window within the margin touches the padding.
    """
    margin, stride = max(needs(genotype, PUBLISHED)), genotype.stride
    first, rest = divmod(margin - stride + 1, stride)
    assert rest == 0, "the windows of ours lie between theirs"
    field = Field().then(2 * margin + 1, stride)
    y, x = (slice(first, first + field.outputs(n)) for n in size)
    return y, x


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


@CELLS
@SIZES
def test_a_valid_cell_is_the_interior_of_the_padded_one(
    reference: ModuleType, name: str, genotype: Genotype, size: tuple[int, int]
) -> None:
    ours, theirs = pair(reference, name, genotype)
    current, previous = states(*size)
    with torch.no_grad():
        valid, padded = ours(current, previous), theirs(current, previous)
    y, x = interior(genotype, size)
    assert difference(valid, padded[:, :, y, x]) <= TOLERANCE


@CELLS
def test_a_wider_previous_state_is_used_to_its_rim(
    reference: ModuleType, name: str, genotype: Genotype
) -> None:
    ours, theirs = pair(reference, name, genotype, wider=3)
    current, previous = states(36, 39, wider=3)
    stride = genotype.stride
    # A reduction needs 10 cells of CURRENT and 13 of PREVIOUS, and 3 more of that are there: so it
    # spends 10 of CURRENT, and its windows lie between those of theirs unless one cell is dropped.
    spent = (ours.field.size - 21) // 4
    assert spent == needs(genotype, PUBLISHED)[0]
    odd = (spent - stride + 1) % stride
    with torch.no_grad():
        valid = ours(current, previous)
        padded = theirs(current[:, :, odd:, odd:], previous[:, :, 3 + odd : -3, 3 + odd : -3])
    y, x = interior(genotype, (36 - odd, 39 - odd))
    first = (stride * y.start + stride - 1 + odd - spent) // stride
    rows, columns = (slice(first, first + s.stop - s.start) for s in (y, x))
    assert difference(valid[:, :, rows, columns], padded[:, :, y, x]) <= TOLERANCE


@CELLS
def test_one_output_further_out_the_reference_sees_its_padding(
    reference: ModuleType, name: str, genotype: Genotype
) -> None:
    # So the interior is all that can agree, and a margin one smaller would be wrong.
    ours, theirs = pair(reference, name, genotype)
    current, previous = states(41, 44)
    n = genotype.stride
    inner = (slice(None), slice(None), slice(n, -n), slice(n, -n))
    with torch.no_grad():
        valid, padded = ours(current, previous), theirs(current[inner], previous[inner])
    y, x = interior(genotype, (41 - 2 * n, 44 - 2 * n))
    assert difference(valid[:, :, 1:-1, 1:-1], padded[:, :, y, x]) <= TOLERANCE
    assert difference(valid[:, :, 0, 1:-1], padded[:, :, y.start - 1, x]) > 1e-3
    assert difference(valid[:, :, 1:-1, 0], padded[:, :, y, x.start - 1]) > 1e-3
