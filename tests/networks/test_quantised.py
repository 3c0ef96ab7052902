"""int8: the stem in integers of 8 bits, within its tolerance of fp32, and really in integers."""

from __future__ import annotations

import zipfile
from itertools import islice
from pathlib import Path

import networks
import numpy as np
import pytest
import slides
import torch
from commands import ran, refused, run
from numpy.typing import NDArray
from settled import settled
from torch import nn
from torch.nn import functional

from slidescan.engines.backend import TOLERANCE, Backend, choose
from slidescan.engines.build import make_engine
from slidescan.engines.ensemble import Ensemble
from slidescan.engines.openvino.engine import OpenVINOEngine
from slidescan.errors import ConfigError
from slidescan.geometry import PATCH_PX, Box, Grid
from slidescan.maps.store import Heatmap
from slidescan.models.card import shipped_names
from slidescan.models.model import Model, load
from slidescan.networks.network import Network, probability
from slidescan.networks.plan import LitePlan, Plan
from slidescan.networks.quantised import Quantised, convolve, quantised
from slidescan.networks.shift_and_stitch import ShiftAndStitch
from slidescan.patches.decoding import decode
from slidescan.scanning import pipeline
from slidescan.tools import hardware

PLANS: dict[str, Plan] = {
    "cells": networks.plan("4/2 3 4/2 3", "R N", filters=4, dense=8),
    "pool": networks.plan("4/2 3 2/2p 4", "R N", filters=4, dense=8),
    "plain": networks.plain("4/2 4/2 2/2p 4/2 3", "max", 2),
}
INT8 = TOLERANCE["int8+bf16"]
FP32 = Backend("openvino", "cpu", "fp32", 1)
BESIDE_FP32 = Backend("openvino", "cpu", "int8+fp32", 1)
SAME = 1e-3
"""Of two engines, of which one may round up a step what the other rounds down."""
SIDE = 300
COUNT = 128

Pixels = NDArray[np.uint8]


def section(side: int = SIDE) -> Pixels:
    """Tissue that fills most of it, (1, side, side, 3)."""
    return slides.section(side, side)[None]


def patches(pixels: Pixels, step: int = 17) -> Pixels:
    places = range(0, pixels.shape[1] - PATCH_PX + 1, step)
    return np.stack([pixels[0, y : y + PATCH_PX, x : x + PATCH_PX] for y in places for x in places])


def made(name: str) -> Network:
    return settled(PLANS[name], patches(section(), 40), spread=1.0)


def backend() -> Backend:
    """int8 as this machine has it."""
    return choose("openvino", "cpu", "int8", 1)


@torch.no_grad()
def simulated(network: Network | ShiftAndStitch, pixels: Pixels) -> NDArray[np.float32]:
    """By torch, rounded as the integers are."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    scores: NDArray[np.float32] = probability(quantised(network)(x)).numpy()
    return scores


def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max())


# --- what is rounded, and how -----------------------------------------------------------------


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("finer", [1, 2, 4])
def test_the_engine_computes_what_torch_simulates(name: str, finer: int) -> None:
    network = made(name)
    either = ShiftAndStitch(network, network.field.stride // finer) if finer > 1 else network
    pixels = section(160)
    scores = make_engine(either, BESIDE_FP32)(pixels)
    assert scores.std() > 0.02
    assert apart(scores, simulated(either, pixels)) <= SAME
    assert 0 < apart(scores, make_engine(either, FP32)(pixels)) <= INT8


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_a_finer_stride_of_what_is_quantised_is_the_same(name: str) -> None:
    network = made(name)
    stride = network.field.stride // 4
    x = networks.image(160, 160).float()
    one, other = (
        ShiftAndStitch(quantised(network), stride),
        quantised(ShiftAndStitch(network, stride)),
    )
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("name", PLANS)
def test_only_dense_layers_after_the_first_are_in_8_bits(name: str) -> None:
    network = made(name)
    there, here = network.body, quantised(network).body
    found = [type(layer) for layer in here.modules() if isinstance(layer, nn.Conv2d)]
    count = sum(isinstance(layer, Quantised) for layer in here.modules())
    dense = {"cells": 4, "pool": 3, "plain": 4}[name]
    assert found[:dense] == [nn.Conv2d, *[Quantised] * (dense - 1)]
    assert count == dense - 1
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in body.modules()) for body in (there, here)]
    assert norms[0] - norms[1] == count


@torch.no_grad()
def test_every_output_has_weights_of_its_own_scale() -> None:
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.rand(2, 8, 9, 9, generator=rng), torch.randn(5, 8, 3, 3, generator=rng)
    scale = torch.tensor([100, 1, 1e-2, 1e-4, 0])[:, None, None, None]  # the last one is dead
    bias = torch.zeros(5)
    exact = functional.conv2d(x, weight * scale, bias, (2, 2))
    found = convolve(x, weight * scale, bias, (2, 2), 1.0)
    largest = exact.abs().amax((0, 2, 3))
    off = (found - exact).abs().amax((0, 2, 3))
    assert (off <= 0.02 * largest).all()
    assert (off[:4] > 0).all()


@torch.no_grad()
def test_activations_are_clipped_where_their_range_ends() -> None:
    x = torch.tensor([-1.0, 0, 0.001, 0.5, 2, 3]).view(6, 1, 1, 1)
    found = convolve(x, torch.ones(1, 1, 1, 1), torch.zeros(1), (1, 1), 2.0).flatten()
    assert found.tolist() == pytest.approx([0, 0, 0, 64 * 2 / 255, 2, 2], abs=1e-6)


@torch.no_grad()
def test_a_range_is_that_of_the_batch_norm_before() -> None:
    network = made("pool")
    norms = [layer for layer in network.body.modules() if isinstance(layer, nn.BatchNorm2d)]
    found = [layer for layer in quantised(network).body.modules() if isinstance(layer, Quantised)]
    assert len(found) == 2
    for before, layer in zip(norms, found, strict=False):
        reaches = before.bias + 8 * before.weight.abs()
        assert layer.top == pytest.approx(float(reaches.max()))


def test_a_dead_stem_is_no_division_by_zero() -> None:
    network = made("cells")
    norms = [layer for layer in network.body.modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        for parameter in (norms[0].weight, norms[0].bias, norms[1].weight):
            parameter.zero_()
    pixels = section(120)
    scores = make_engine(network, BESIDE_FP32)(pixels)
    assert apart(scores, make_engine(network, FP32)(pixels)) <= SAME
    assert apart(scores, simulated(network, pixels)) <= SAME


def test_the_caller_s_network_is_left_as_it_was() -> None:
    network = made("cells").train().requires_grad_()
    before = str(network), {key: value.clone() for key, value in network.state_dict().items()}
    changed = quantised(network)
    assert str(network) == before[0]
    assert all(torch.equal(value, before[1][key]) for key, value in network.state_dict().items())
    assert all(part.training for part in network.modules())
    assert all(value.requires_grad for value in network.parameters())
    assert not any(part.training for part in changed.modules())
    assert not any(value.requires_grad for value in changed.parameters())


# --- the shipped models -----------------------------------------------------------------------


@pytest.fixture(scope="module", params=shipped_names())
def loaded(request: pytest.FixtureRequest) -> Model:
    return load(request.param)


@pytest.fixture(scope="module")
def network(loaded: Model) -> Network:
    return loaded.network


@pytest.fixture(scope="module", params=["section", "real"])
def tissue(request: pytest.FixtureRequest) -> Pixels:
    """Patches, (N, 96, 96, 3)."""
    if request.param == "section":
        return patches(section(), 24)
    folder: Path = request.getfixturevalue("real_data")
    with zipfile.ZipFile(folder / "pcam" / "patches.zip") as pack:
        names = islice((n for n in sorted(pack.namelist()) if n.endswith(".webp")), COUNT)
        return np.stack([np.asarray(decode(pack.read(name))) for name in names])


@pytest.mark.slow
def test_the_shipped_models_stay_within_their_tolerance(network: Network, tissue: Pixels) -> None:
    exact = make_engine(network, FP32)(tissue)
    for each in {backend(), BESIDE_FP32}:  # the same where the processor has no bf16
        assert 0 < apart(make_engine(network, each)(tissue), exact) <= TOLERANCE[each.precision]


@pytest.mark.parametrize(("stride", "bound"), [(8, 0), (4, 0), (2, 2e-2)])
def test_a_map_equals_its_patches(loaded: Model, stride: int, bound: float) -> None:
    grid = Grid((64, 80), stride)
    plane = Plane(section())
    tile = plane.read(grid.pixels(grid.cells))[None]
    ensemble = Ensemble((loaded,))
    whole = ensemble.engine(backend(), stride)(tile)
    drawn = np.random.default_rng(0).integers(0, grid.shape, (48, 2)).tolist()
    cells = [Box(row, column, row + 1, column + 1) for row, column in drawn]
    alone = pipeline.score_patches(cells, grid, plane, ensemble.engine(backend()))
    there = np.array([whole[0][cell.slices][0, 0] for cell in cells])
    assert np.abs(there - np.fromiter(alone, float)).max() <= bound


class Plane:
    """Fulfils Reader around the middle of an image."""

    def __init__(self, image: Pixels) -> None:
        self.image = image[0]

    def read(self, box: Box) -> Pixels:
        return self.image[box.shift(PATCH_PX, PATCH_PX).slices]


@pytest.mark.parametrize("finer", [1, 2, 4])
def test_openvino_takes_its_integers(network: Network, finer: int) -> None:
    """What it does not know it computes in floating point, and says nothing."""
    either = ShiftAndStitch(network, network.field.stride // finer) if finer > 1 else network
    engine = make_engine(either, backend())
    assert isinstance(engine, OpenVINOEngine)
    found = [
        about["primitiveType"].astype(str)
        for about in (node.get_rt_info() for node in engine.compiled.get_runtime_model().get_ops())
        if about["layerType"].astype(str) == "Convolution"
    ]
    dense = sum(isinstance(layer, Quantised) for layer in quantised(network).modules())
    assert dense in (2, 3)
    assert sum(kind.endswith("_I8") for kind in found) == dense


# --- the choice -------------------------------------------------------------------------------


@pytest.mark.parametrize(("has", "precision"), [(True, "int8+bf16"), (False, "int8+fp32")])
def test_int8_names_what_is_beside_it(
    has: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidescan.engines.openvino.engine.has_bf16", lambda: has)
    assert choose(None, "cpu", "int8", 3) == Backend("openvino", "cpu", precision, 3)
    assert choose(None, "cpu", "int8+fp32", 1).precision == "int8+fp32"  # of a map that has it
    assert "int8" not in choose(None, "cpu", "auto", 1).precision


@pytest.mark.parametrize("engine", ["torch", None])
def test_int8_is_openvino_s(engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 1)
    device = "cuda" if engine is None else "cpu"
    with pytest.raises(ConfigError, match=f"int8 .* not by torch on {device}; use --engine openv"):
        choose(engine, device, "int8", 1)


@pytest.mark.parametrize(
    "plan",
    [networks.plan("4/2", "R N"), networks.plain("4/2 2/2p"), LitePlan(arch="efficientnet-lite")],
    ids=lambda plan: plan.arch,
)
def test_a_network_without_such_layers_says_so(plan: Plan) -> None:
    network = Network(plan)
    with pytest.raises(ConfigError) as error:
        make_engine(network, BESIDE_FP32)
    assert "\n" not in str(error.value)
    for part in (f"--precision int8: this {plan.arch} network", "use bf16 or fp32"):
        assert part in str(error.value)


# --- commands ---------------------------------------------------------------------------------

FAST = ("--model", "fast", "--threads", "1")


def test_a_map_in_int8(tmp_path: Path) -> None:
    slide, out, exact = (tmp_path / name for name in ("slide.tif", "map.zarr", "exact.zarr"))
    slides.write_slide(slide, slides.section(300, 360), mpp=0.972)
    ran("heatmap", slide, "--out", out, *FAST, "--precision", "int8")
    ran("heatmap", slide, "--out", exact, *FAST)
    values = [Heatmap.open(path).read(Heatmap.open(path).grid.cells) for path in (out, exact)]
    assert Heatmap.open(out).settings["precision"] == backend().precision
    # The bound is of tissue; this is a drawing.
    assert 0 < np.nanmax(np.abs(values[0] - values[1])) <= 2 * INT8
    assert "tolerance 0.05" in ran("verify", slide, out, *FAST, "--cells", 32).stdout
    refused(run("heatmap", slide, "--out", out, *FAST), "precision", backend().precision)
    refused(run("verify", slide, out, *FAST, "--engine", "torch"), "int8", "--engine openvino")


def test_flags_that_int8_does_not_go_with(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = ("heatmap", section, "--out", tmp_path / "map.zarr", "--precision", "int8")
    refused(run(*command, "--engine", "torch"), "int8", "--engine openvino", "bf16 or fp32")
    refused(run(*command, "--model", tiny_model), "int8", "nasnet-a", "use bf16 or fp32")
    assert not (tmp_path / "map.zarr").exists()


def test_doctor_tests_int8_and_does_not_call_auto_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slidescan.scanning.selftest.SECONDS", 0.0)
    told = ran("doctor", *FAST, "--precision", "int8").stdout
    assert f"openvino on cpu in {backend().precision}" in told
    assert "tolerance 0.05" in told
    assert "hint" not in told
