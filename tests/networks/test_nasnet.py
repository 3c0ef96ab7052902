"""The network is an exact, centred, padding-free function of its field of view."""

from __future__ import annotations

import re
from functools import lru_cache

import networks
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import image, network, plain, plan
from pydantic import ValidationError
from torch import Tensor, fx, nn

from slidescan.errors import ConfigError
from slidescan.geometry import PATCH_PX, Box, Field, Grid
from slidescan.networks.cells import Cell, Crop
from slidescan.networks.genotype import (
    NORMAL,
    REDUCTION,
    Branch,
    Crops,
    Genotype,
    Kind,
    Op,
    crops,
    needs,
)
from slidescan.networks.network import Network, probability
from slidescan.networks.plan import NasnetPlan, Plan

# Each plan with its stride and the pixels its output depends on, summed kernel by kernel: a 4/2
# stem sees 4 at jump 2; a normal cell adds 4 jumps (8 with two convolutions per separable), a
# pooled grid of n adds n - 1. A reduction cell adds 10 jumps (26) on PREVIOUS (sep 7, then 3x3)
# and 8 (20) on CURRENT (sep 5, then 3x3). Behind a stem the two are one; behind a cell PREVIOUS
# has seen less, and it is CURRENT that reaches furthest.
CASES: dict[str, tuple[Plan, int, int]] = {
    "R N N R": (plan("4/2", "R N N R", filters=8), 8, 88),  # 4 + 20 + 16 + 16 + 32
    "R N R, mean 3": (plan("4/2", "R N R", "mean", 3), 8, 88),  # 4 + 20 + 16 + 32 + 16
    "R N R, max 3": (plan("4/2", "R N R", "max", 3), 8, 88),
    "R N N N N, mean 3": (plan("4/2", "R N N N N", "mean", 3), 4, 96),  # 4 + 20 + 4 * 16 + 8
    "N N R N, mean 3": (plan("4/2", "N N R N", "mean", 3), 4, 60),  # 4 + 8 + 8 + 16 + 16 + 8
    "R2 R": (plan("4/2", "R2 R"), 8, 88),  # 4 + 52 + 32
    "dense 6, R N": (plan("6/2 3 4/2 3", "R N"), 8, 96),  # 6 + 4 + 6 + 8 + 40 + 32
    "dense 4, R N": (plan("4/2 3 4/2 3", "R N"), 8, 94),  # 4 + 4 + 6 + 8 + 40 + 32
    "N2 R2": (plan("4/2", "N2 R2"), 4, 60),  # 4 + 16 + 40
    "R N2, mean 2": (plan("4/2", "R N2", "mean", 2), 4, 60),  # 4 + 20 + 32 + 4
    "pool, R N": (plan("4/2 3 2/2p 3", "R N"), 8, 90),  # 4 + 4 + 2 + 8 + 40 + 32
    "R, log-sum-exp 4": (plan("4/2 4/2 3", "R", "log-sum-exp", 4), 8, 82),  # 4 + 6 + 8 + 40 + 24
    "R, attention 4": (plan("4/2 4/2 3", "R", "attention", 4), 8, 82),
    "plain, 8": (plain("4/2 3 2/2p 3 3 2/2p 3", "max", 2), 8, 54),  # 4 + 4 + 2 + 16 + 4 + 16 + 8
    "plain, 16": (plain("4/2 4/2 2/2p 4/2 3", "max", 2), 16, 86),  # 4 + 6 + 4 + 24 + 32 + 16
}
EVERY = pytest.mark.parametrize("name", CASES)

EXACT = 1e-12
"""Largest difference, relative to the logits' scale, that float64 sums in another order leave."""

# Cells beyond the first and pixels beyond the last cell: extents of every remainder.
sides = st.tuples(st.integers(0, 5), st.integers(0, 7))
seeds = st.integers(0, 2**32 - 1)


@lru_cache
def built(name: str) -> Network:
    return network(CASES[name][0])


def extent(net: Network, side: tuple[int, int]) -> int:
    return PATCH_PX + side[0] * net.field.stride + side[1]


def patches(pixels: Tensor, field: Field) -> Tensor:
    """Every patch that a cell sees, (h, w, 3, size, size), of an image (1, 3, H, W)."""
    windows = pixels[0].unfold(1, field.size, field.stride).unfold(2, field.size, field.stride)
    return windows.permute(1, 2, 0, 3, 4)


@torch.no_grad()
def score(net: Network, pixels: Tensor) -> Tensor:
    """The logits of patches (h, w, 3, size, size), each by itself, as a map (1, 2, h, w)."""
    h, w = pixels.shape[:2]
    logits: Tensor = net(pixels.flatten(0, 1))  # (h * w, 2, 1, 1): patches share no arithmetic
    return logits.view(h, w, 2).permute(2, 0, 1)[None]


def assert_equal(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= EXACT * b.abs().max()


def support(small: Plan, height: int, width: int, cell: tuple[int, int]) -> Box:
    """The pixels one output depends on: where its gradient is not zero, which must be a full box.

    Summed over channels, inputs and weights, for ReLU and maximum hide pixels of any one of them.
    """
    reached = torch.zeros(height, width, dtype=torch.bool)
    for seed in range(6):
        pixels = image(height, width, seed, count=8).requires_grad_()
        network(small, seed)(pixels)[:, :, *cell].abs().sum().backward()
        assert pixels.grad is not None
        reached |= (pixels.grad != 0).any(0).any(0)
    rows, columns = (torch.nonzero(reached.any(axis)).flatten().tolist() for axis in (1, 0))
    box = Box(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
    assert reached[box.slices].all(), f"no gradient in a part of {box}"
    return box


# --- Exactness ----------------------------------------------------------------------------------


@EVERY
@settings(max_examples=12)
@given(down=sides, across=sides, seed=seeds)
@example(down=(3, 7), across=(2, 5), seed=0)
@example(down=(1, 3), across=(4, 0), seed=1)
def test_a_map_equals_its_patches(
    name: str, down: tuple[int, int], across: tuple[int, int], seed: int
) -> None:
    net = built(name)
    pixels = image(extent(net, down), extent(net, across), seed)
    with torch.no_grad():
        whole = net(pixels)
    h, w = (net.field.outputs(n) for n in pixels.shape[2:])
    assert whole.shape == (1, 2, h, w)
    assert_equal(whole, score(net, patches(pixels, net.field)))


@pytest.mark.parametrize("name", ["R N N R", "R N R, max 3", "dense 4, R N"])
def test_a_patch_scores_alone_what_it_scores_in_a_batch(name: str) -> None:
    net = built(name)
    batch = image(PATCH_PX, PATCH_PX, count=6)
    with torch.no_grad():
        assert_equal(torch.cat([net(one[None]) for one in batch]), net(batch))


@EVERY
def test_patches_differ(name: str) -> None:
    # Or equality would hold for a constant.
    logits = score(built(name), image(PATCH_PX, PATCH_PX, count=16)[None])
    assert (logits.std(dim=(2, 3)) > 0.01 * logits.abs().max()).all()


@EVERY
@settings(max_examples=8)
@given(down=sides, across=sides, side=st.integers(1, 5), seed=seeds)
@example(down=(5, 3), across=(4, 7), side=2, seed=0)
def test_no_tiling_changes_a_map(
    name: str, down: tuple[int, int], across: tuple[int, int], side: int, seed: int
) -> None:
    net = built(name)
    pixels = image(extent(net, down), extent(net, across), seed)
    with torch.no_grad():
        whole = net(pixels)
        tiled = torch.full_like(whole, torch.nan)
        for cells in Box(0, 0, *whole.shape[2:]).split(side):
            y, x = cells.y0 * net.field.stride, cells.x0 * net.field.stride
            height, width = (net.field.extent(n) for n in cells.shape)
            tiled[:, :, *cells.slices] = net(pixels[:, :, y : y + height, x : x + width])
    assert_equal(tiled, whole)


@settings(max_examples=12)
@given(height=st.integers(1, 60), width=st.integers(1, 60), side=st.integers(1, 8), seed=seeds)
@example(height=41, width=23, side=2, seed=0)
def test_a_slides_tiles_hold_the_patches_centred_on_their_cells(
    height: int, width: int, side: int, seed: int
) -> None:
    net = built("R N N R")
    grid = Grid((height, width), net.field.stride, net.field.size)
    rim = PATCH_PX
    white = nn.functional.pad(image(height, width, seed), (rim,) * 4, value=255)

    def read(box: Box) -> Tensor:
        return white[:, :, *box.shift(rim, rim).slices]

    rows, columns = grid.shape
    alone = [
        read(Box(y - 48, x - 48, y + 48, x + 48))[0]
        for y in range(4, 8 * rows, 8)  # the middle of each cell's square
        for x in range(4, 8 * columns, 8)
    ]
    expected = score(net, torch.stack(alone).unflatten(0, grid.shape))
    tiled = torch.full_like(expected, torch.nan)
    with torch.no_grad():
        for cells in grid.cells.split(side):
            tiled[:, :, *cells.slices] = net(read(grid.pixels(cells)))
    assert_equal(tiled, expected)


# --- Field of view ------------------------------------------------------------------------------


@EVERY
def test_stride_and_field_are_as_declared(name: str) -> None:
    _, stride, _ = CASES[name]
    assert built(name).field == Field(0, 96, stride)


@EVERY
def test_a_patchs_output_sees_its_field_exactly(name: str) -> None:
    small, _, sees = CASES[name]
    rim = (96 - sees) // 2
    assert support(small, 96, 96, (0, 0)) == Box(rim, rim, 96 - rim, 96 - rim)


@EVERY
def test_an_output_inside_a_map_sees_its_field_exactly(name: str) -> None:
    small, stride, sees = CASES[name]
    height, width, (r, c) = 96 + 2 * stride + 3, 96 + 4 * stride + 1, (1, 3)
    y, x = r * stride + (96 - sees) // 2, c * stride + (96 - sees) // 2
    assert support(small, height, width, (r, c)) == Box(y, x, y + sees, x + sees)


@EVERY
@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)], ids=["y", "x", "both"])
def test_a_flipped_network_flips_the_map(name: str, axes: tuple[int, ...]) -> None:
    # Branches half a pixel apart would move in opposite directions.
    small, stride, _ = CASES[name]
    flipped = network(small)
    with torch.no_grad():
        for part in flipped.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.copy_(part.weight.flip(axes))
        # Extents that the windows of every stride fill, so that both ends are alike.
        pixels = image(96 + 3 * stride, 96 + 2 * stride, seed=2)
        assert_equal(flipped(pixels.flip(axes)), built(name)(pixels).flip(axes))


# --- No padding ---------------------------------------------------------------------------------


@EVERY
def test_convolutions_and_pools_are_valid(name: str) -> None:
    windows = (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d)
    leaves = [part for part in built(name).modules() if not list(part.children())]
    known = (*windows, nn.BatchNorm2d, nn.ReLU, nn.Identity, Crop)
    others = {type(part).__name__ for part in leaves if not isinstance(part, known)}
    assert others <= {
        "Normalise",
        "LogSumExp",
        "Sequential",
    }  # Sequential: no pool where the strides agree
    for part in leaves:
        if isinstance(part, windows):
            assert part.padding in (0, (0, 0)), part
            # A ceiled output would pool beyond the border.
            assert not getattr(part, "ceil_mode", False), part
            assert getattr(part, "dilation", 1) in (1, (1, 1)), part


@EVERY
def test_nothing_else_touches_the_pixels(name: str) -> None:
    # Neither a functional padding nor a crop by run-time sizes (`x.shape`) can stand in the trace.
    traced = fx.symbolic_trace(built(name))
    functions = {n.target.__name__ for n in traced.graph.nodes if n.op == "call_function"}
    by_cell = {"sub", "truediv", "add", "mul", "cat", "sigmoid", "exp", "log", "maximum"}
    assert functions <= by_cell | {"getitem"}
    assert not [n for n in traced.graph.nodes if n.op == "call_method"]


# --- Layout -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("genotype", "separables", "margins"),
    [
        (NORMAL, 1, (2, 2)),  # a 5x5
        (NORMAL, 2, (4, 4)),  # twice 5x5
        # 5x5 (2) or 7x7 (3), then 3x3 at twice the jump (2)
        (REDUCTION, 1, (4, 5)),
        # 5x5 (2), 5x5 at twice the jump (4) or 7x7 (3), 7x7 (6), then twice 3x3 there (4)
        (REDUCTION, 2, (10, 13)),
    ],
)
def test_margins(genotype: Genotype, separables: int, margins: tuple[int, int]) -> None:
    assert needs(genotype, separables) == margins


def test_crops_of_a_normal_cell() -> None:
    # Margin 2: a 5x5 uses it, a 3x3 leaves 1, the identity 2.
    assert crops(NORMAL) == Crops(
        branches=((0, 1), (0, 1), (1, 2), (1, 1), (1, 2)), output=(2, 0, 0, 0, 0, 0)
    )


def test_crops_of_a_reduction_cell() -> None:
    # CURRENT has a margin of 4, PREVIOUS of 5. Step 0 is read again by the 3x3s of steps 3 and 4,
    # 2 input cells on each side, so sep 5 (2) uses the rest of 4 and sep 7 (3) that of 5. In the
    # other steps max or average (1) leaves 3 of CURRENT, sep 7 (3) 2 and sep 5 (2) 3 of PREVIOUS.
    # Step 1 reaches step 3's sum as it is, for it was computed without the rim that only step 0's
    # readers need.
    assert crops(REDUCTION) == Crops(
        branches=((0, 0), (3, 2), (3, 3), (0, 0), (0, 3)), output=(0, 0, 0, 0)
    )


def test_crops_of_a_reduction_cell_with_double_separables() -> None:
    # Margins 10 and 13. Sep 5 reaches 2 + 2 * 2 = 6, sep 7 3 + 2 * 3 = 9, sep 3 behind the stride 2
    # output cells. Step 3's average reads step 0 with reach 1 where 2 are there: crop 1.
    assert crops(REDUCTION, separables=2) == Crops(
        branches=((0, 0), (9, 4), (9, 7), (0, 1), (0, 9)), output=(0, 0, 0, 0)
    )


def test_what_a_cell_does_not_need_of_an_input_is_left_out() -> None:
    seen = Field(0, 24, 2)
    # Of one state as both inputs a reduction needs 4 and 5 cells, so CURRENT loses 1.
    cell = Cell(REDUCTION, 3, 1, (5, seen), (7, seen))
    assert [part.onto[-1].cells for part in (cell.current, cell.previous)] == [1, 0]
    # PREVIOUS saw 2 * 3 cells less, so it has 3 more on each side; CURRENT's 4 reach furthest.
    cell = Cell(REDUCTION, 3, 1, (5, seen), (7, Field(0, 12, 2)))
    assert [part.onto[-1].cells for part in (cell.current, cell.previous)] == [0, 2]


def test_a_state_that_leaves_the_cell_is_cropped_behind_its_readers() -> None:
    pool = Op(Kind.AVERAGE, 3)
    chain = Genotype(
        stride=1, steps=((Branch(pool, 0), Branch(pool, 1)), (Branch(pool, 2), Branch(pool, 0))),
        output=(2, 3),
    )  # fmt: skip
    # Step 0 keeps the rim of 1 that step 1 reads, and loses it before the concatenation.
    assert needs(chain) == (2, 2)
    assert crops(chain) == Crops(branches=((0, 0), (0, 1)), output=(1, 0))


def test_a_reduction_cannot_pass_its_input_on() -> None:
    leaky = Genotype(stride=2, steps=REDUCTION.steps, output=(1, 3))
    with pytest.raises(ValueError, match="a strided cell cannot pass its input on"):
        crops(leaky)


def test_a_cell_tells_the_field_it_has() -> None:
    seen = Field(0, 4, 2)
    cell = Cell(REDUCTION, 3, 1, (5, seen), (7, Field(0, 4, 2)))
    assert cell.field == Field(0, 24, 4)
    assert cell.channels == 12
    current, previous = torch.rand(1, 5, 20, 17), torch.rand(1, 7, 20, 17)
    # 11 cells give one output, every 2 cells more one more.
    assert cell.eval()(current, previous).shape == (1, 12, 5, 4)


@pytest.mark.parametrize(
    "previous",
    [
        Field(0, 5, 2),  # half a cell off
        Field(0, 4, 8),  # coarser
        Field(0, 5, 1),  # the 3x3 at stride 2 that aligns it sees 7: half a cell off 8
    ],
)
def test_inputs_that_cannot_be_aligned_are_refused(previous: Field) -> None:
    with pytest.raises(ValueError, match="cannot be aligned"):
        Cell(NORMAL, 3, 1, (5, Field(0, 8, 2)), (7, previous))


def test_a_state_of_half_the_stride_is_averaged_around_the_same_centres() -> None:
    # PREVIOUS at stride 2 sees 4 px, averaged 3x3 at stride 2 it sees 8; CURRENT sees 24, so the
    # average loses 16 px / 2 / 4 = 2 outputs on each side.
    half = networks.randomise(
        Cell(NORMAL, 3, 1, (5, Field(0, 24, 4)), (7, Field(0, 4, 2))).double()
    )
    same = networks.randomise(
        Cell(NORMAL, 3, 1, (5, Field(0, 24, 4)), (7, Field(0, 24, 4))).double()
    )
    rng = torch.Generator().manual_seed(0)
    current = torch.randn(1, 5, 9, 10, generator=rng, dtype=torch.float64)
    previous = torch.randn(1, 7, 27, 29, generator=rng, dtype=torch.float64)  # 2 * (n + 4) + 1
    averaged = nn.functional.avg_pool2d(previous.relu(), 3, 2)[:, :, 2:-2, 2:-2]
    with torch.no_grad():
        assert_equal(half.eval()(current, previous), same.eval()(current, averaged))


# --- Plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("oversized", "needed"),
    [
        (plan("4/2", "R N N N R"), 51),  # (4 + 20 + 3 * 16 + 32) / 2 - 1
        (plan("4/2", "R N N R", "mean", 3), 51),  # (88 + 2 * 8) / 2 - 1
        (plan("4/2", "R N R", "max", 5), 51),  # (72 + 4 * 8) / 2 - 1
        (plan("4/2", "R2 R2"), 67),  # (4 + 26 * 2 + 20 * 4) / 2 - 1
    ],
)
def test_a_plan_that_does_not_fit_names_both_margins(oversized: Plan, needed: int) -> None:
    with pytest.raises(
        ConfigError,
        match=f"margin of {needed} px on each side and a patch of 96 px has 47 px; take fewer",
    ):
        Network(oversized)


@pytest.mark.parametrize(
    ("stem", "cells", "sees"), [("3/2", "R N N R", 87), ("3/2", "R", 23), ("3/2", "R R R", 119)]
)
def test_an_odd_field_is_refused(stem: str, cells: str, sees: int) -> None:
    with pytest.raises(ConfigError, match=f"is {sees} px, an odd number.* stem even"):
        Network(plan(stem, cells))


def test_a_plan_without_a_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stride is 1 px.* cannot be centred on a cell"):
        Network(plan("4/1", "N"))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"depth": 3}, "depth"),
        ({"arch": "nasnet-b"}, "arch"),
        ({"stem": []}, "stem"),
        ({"cells": []}, "cells"),
        ({"head": {"pool": "median"}}, "head.pool"),
        ({"head": {"grid": 0}}, "head.grid"),
        ({"head": {"kernel": 3}}, "head.kernel"),
        ({"stem": [{"kernel": 4, "stride": 3}]}, "stem.0.stride"),
        ({"stem": [{"kernel": 4, "padding": 1}]}, "stem.0.padding"),
        ({"stem": [{"kernel": 0}]}, "stem.0.kernel"),
        ({"cells": [{"kind": "identity", "filters": 4}]}, "cells.0.kind"),
        ({"cells": [{"kind": "normal"}]}, "cells.0.filters"),
        ({"cells": [{"kind": "normal", "filters": 0}]}, "cells.0.filters"),
        ({"cells": [{"kind": "normal", "filters": "wide"}]}, "cells.0.filters"),
        ({"cells": [{"kind": "normal", "filters": 4, "separables": 3}]}, "cells.0.separables"),
        ({"cells": [{"kind": "normal", "filters": 4, "stride": 2}]}, "cells.0.stride"),
        ({"mean": (0.7, 138.0, 0.7)}, "mean.1"),  # of 255, not of 1
        ({"std": (0.2, 0.0, 0.2)}, "std.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_setting_is_refused_by_its_key(change: dict[str, object], key: str) -> None:
    good = plan("4/2", "R N N R").model_dump()
    NasnetPlan.model_validate(good)
    with pytest.raises(ValidationError) as refused:
        NasnetPlan.model_validate(good | change)
    error = refused.value.errors()[0]
    unknown = re.findall(r"unknown key (\w+)", error["msg"])  # refused where its parent is
    assert ".".join([*map(str, error["loc"]), *unknown]) == key


def test_a_plan_survives_json_and_cannot_be_changed() -> None:
    kept = plan("4/2 3", "R N2 R", "max", 3)
    assert NasnetPlan.model_validate_json(kept.model_dump_json()) == kept
    with pytest.raises(ValidationError, match="frozen"):
        kept.head.grid = 1  # type: ignore[misc]


# --- The network as it is shipped ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "filters", "grid", "stride", "parameters"),
    [
        ("RNNR", (32, 32, 32, 64), 1, 8, 102_178),  # DESIGN.md: 0.10 M
        ("RNR", (32, 32, 64), 3, 8, 79_810),  # 0.08 M
        ("NNRNNN", (32, 32, 64, 64, 64, 64), 3, 4, 281_346),  # 0.28 M
    ],
)
def test_the_table_of_the_design(
    cells: str, filters: tuple[int, ...], grid: int, stride: int, parameters: int
) -> None:
    # As published, the filters double at a reduction, but not at one that follows the stem.
    wide = plan("4/2", " ".join(cells), grid=grid, dense=32).model_dump()
    for cell, count in zip(wide["cells"], filters, strict=True):
        cell["filters"] = count
    net = Network(NasnetPlan.model_validate(wide))
    assert net.field == Field(0, 96, stride)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_one_seed_one_network() -> None:
    def drawn(seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Network(CASES["R N N R"][0]).state_dict()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert list(first) == list(again)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["body.stem.0.weight"], other["body.stem.0.weight"])


def test_a_new_network_starts_at_even_odds() -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        odds = probability(Network(CASES["R N N R"][0]).eval()(image(96, 96).float()))
    assert odds.tolist() == [[[0.5]]]


def test_probability_is_the_softmax_of_the_second_class() -> None:
    logits = image(96, 96, count=2)[:, :2] / 10 - 12
    assert torch.allclose(probability(logits), logits.softmax(dim=1)[:, 1], rtol=1e-12, atol=0)


def test_the_names_in_a_weights_file() -> None:
    # Published weights carry these; renaming a module orphans them.
    names = set(Network(CASES["R N N R"][0]).state_dict())
    assert {
        "body.stem.0.weight",
        "body.stem.1.running_var",
        "body.cells.0.current.conv.weight",
        "body.cells.3.previous.bn.bias",
        "body.cells.0.steps.0.1.1.1.weight",  # step 0, right branch, depthwise 7x7
        "body.cells.0.steps.4.0.1.3.running_mean",
        "head.classifier.weight",
        "head.classifier.bias",
    } <= names
    # The normalisation belongs to the plan, which the card keeps.
    assert not [name for name in names if name.startswith("normalise")]
