"""The two engines: one network, one number, whatever the image, the batch and the engine."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import get_args

import networks
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from settled import settled
from torch import Tensor, nn

from slidescan.engines.backend import TOLERANCE, Backend, Name, Precision, choose
from slidescan.engines.build import make_engine
from slidescan.engines.openvino.engine import has_bf16
from slidescan.engines.openvino.graph import convert
from slidescan.errors import ConfigError
from slidescan.geometry import Box, Grid
from slidescan.networks.network import Network, probability
from slidescan.networks.plan import LitePlan, MobilePlan, Plan
from slidescan.networks.shift_and_stitch import ShiftAndStitch
from slidescan.protocols import Engine
from slidescan.tools import hardware

ENGINES = get_args(Name)
# N and height x width: one patch; odd remainders of the stride; a tile; a flat strip; a batch.
SHAPES = [(1, 96, 96), (1, 101, 103), (2, 256, 190), (1, 96, 250), (5, 96, 96), (3, 131, 97)]
PLAN = networks.plan("4/2 3 4/2 3", "R N", filters=4, dense=8)


def noise(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise around a colour that changes every 32 px, so that cells differ from each other."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 192, (count, -(-height // 32), -(-width // 32), 3))
    colours = blocks.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
    return (colours + rng.integers(0, 64, colours.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> Network:
    """Random, in float32, with probabilities that vary around 0.5 and are not saturated.

    BatchNorm's statistics are those of noise: with random ones the mean of every channel dwarfs
    its variation, and half precision loses what is left.
    """
    made = networks.network(PLAN).float()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
    classifier = made.head.classifier
    assert isinstance(classifier, nn.Conv2d)
    assert classifier.bias is not None
    x = torch.from_numpy(noise(1, 400, 400, seed=1)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        made.train()(x)
        classifier.weight.mul_(0.4)
        logits = made.eval()(x)
        classifier.bias[1] -= (logits[:, 1] - logits[:, 0]).mean()
    return made


@pytest.fixture(scope="module")
def engines(network: Network) -> dict[str, Engine]:
    return {name: make_engine(network, Backend(name, "cpu", "fp32", 2)) for name in ENGINES}


def reference(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The same in float64."""
    exact = copy.deepcopy(network).double()
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).double()
    with torch.inference_mode():
        scores: NDArray[np.float64] = probability(exact(x)).numpy()
    return scores


def test_the_tests_network_says_something(network: Network) -> None:
    scores = reference(network, noise(1, 300, 300))
    assert scores.std() > 0.05
    assert 0.01 < scores.min() < scores.max() < 0.99


@pytest.mark.parametrize("name", ENGINES)
def test_fp32_is_fp32(name: str, network: Network, engines: dict[str, Engine]) -> None:
    # Left to itself OpenVINO takes bf16 on a processor with AMX: 1,000 times further off.
    pixels = noise(1, 300, 260)
    np.testing.assert_allclose(
        engines[name](pixels), reference(network, pixels), rtol=0, atol=TOLERANCE["fp32"]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_engines_agree_on_every_size_and_batch(
    shape: tuple[int, int, int], network: Network, engines: dict[str, Engine]
) -> None:
    pixels = noise(*shape)
    scores = {name: engine(pixels) for name, engine in engines.items()}

    count, height, width = shape
    for values in scores.values():
        assert values.dtype == np.float32
        assert values.shape == (
            count,
            network.field.outputs(height),
            network.field.outputs(width),
        )
    np.testing.assert_allclose(scores["openvino"], scores["torch"], rtol=0, atol=TOLERANCE["fp32"])


@pytest.mark.parametrize("name", ENGINES)
def test_a_tile_equals_its_patches(name: str, engines: dict[str, Engine]) -> None:
    grid = Grid((83, 102))
    tile = noise(1, *grid.pixels(grid.cells).shape)
    origin = grid.pixels(grid.cells)
    patches = np.stack(
        [
            tile[0][grid.pixels(cell).shift(-origin.y0, -origin.x0).slices]
            for cell in grid.cells.split(1)
        ]
    )
    assert grid.pixels(Box(0, 0, 1, 1)).shape == (96, 96)

    together = engines[name](tile)[0]
    alone = engines[name](patches)[:, 0, 0].reshape(together.shape)
    assert together.shape == grid.shape == (11, 13)
    np.testing.assert_allclose(together, alone, rtol=0, atol=TOLERANCE["fp32"])


@pytest.mark.parametrize("name", ENGINES)
def test_a_result_stays_when_the_next_image_comes(name: str, engines: dict[str, Engine]) -> None:
    first = engines[name](noise(1, 120, 120))
    kept = first.copy()
    engines[name](noise(1, 120, 120, seed=1))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", ENGINES)
def test_pixels_may_be_read_only_or_a_part_of_more(name: str, engines: dict[str, Engine]) -> None:
    whole = noise(2, 140, 150)
    whole.setflags(write=False)  # as Pillow's arrays are
    part = whole[1:, 10:130, 139:19:-1]
    np.testing.assert_allclose(
        engines[name](part), engines[name](part.copy()), rtol=0, atol=TOLERANCE["fp32"]
    )


@pytest.mark.parametrize("name", ENGINES)
def test_bf16_stays_within_its_tolerance(name: Name, network: Network) -> None:
    pixels = noise(1, 256, 256)
    scores = make_engine(network, Backend(name, "cpu", "bf16", 2))(pixels)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reference(network, pixels), rtol=0, atol=TOLERANCE["bf16"])


@pytest.mark.parametrize("name", ENGINES)
def test_the_caller_s_network_is_left_as_it_was(name: Name) -> None:
    mine = networks.network(networks.plan("4/2 3 4/2", "R", filters=2)).float().train()
    before = {k: v.clone() for k, v in mine.state_dict().items()}
    make_engine(mine, Backend(name, "cpu", "fp32", 2))(noise(2, 96, 96))

    assert all(m.training for m in mine.modules())
    assert all(p.requires_grad and p.is_contiguous() for p in mine.parameters())
    for key, value in mine.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])


# --- the graph that OpenVINO runs -------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(networks.plan("4/2", "R N R", "mean", 3), id="mean"),
        pytest.param(networks.plan("4/2 3 4/2", "N N", "max", 2), id="max"),
        pytest.param(networks.plan("4/2 3 4/2", "R N", "log-sum-exp", 2), id="log-sum-exp"),
        pytest.param(networks.plan("4/2 4/2 3", "R", "attention", 4), id="attention"),
        pytest.param(networks.plan("4/2 3 2/2", "N2"), id="two separables"),
        pytest.param(networks.plain("4/2 4/2 2/2p 4/2 3", "max", 2), id="plain"),
    ],
)
@pytest.mark.parametrize("finer", [1, 2])
def test_every_part_of_a_network_has_its_node(plan: Plan, finer: int) -> None:
    made = settled(plan, noise(6, 96, 96, seed=1))
    network = ShiftAndStitch(made, made.field.stride // finer) if finer > 1 else made
    backends = (Backend(name, "cpu", "fp32", 1) for name in ENGINES)
    one, other = (make_engine(network, backend)(noise(2, 132, 116)) for backend in backends)
    assert one.shape == other.shape
    assert one.std() > 0.01
    np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE["fp32"])


class Sine(nn.Module):
    """With a function that no network here has."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def test_what_has_no_node_is_named() -> None:
    with pytest.raises(NotImplementedError, match="sin"):
        convert(Sine(), (1, 3, 96, 96))


COMPILE = """
import sys
from slidescan.models import model
from slidescan.engines.backend import Backend
from slidescan.engines.build import make_engine
make_engine(model.load("fast").network, Backend("openvino", "cpu", "fp32", 1))
slow = ("torch._dynamo", "torch.export._trace", "sympy", "openvino_telemetry.main")
print(*(name for name in slow if name in sys.modules))
"""


def test_nothing_heavy_is_imported_for_it() -> None:
    """torch.export needs two seconds, most of them to be imported."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


# --- networks that pad, and take patches alone ------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(LitePlan(arch="efficientnet-lite"), id="lite"),
        pytest.param(LitePlan(arch="efficientnet-lite", enlarge=2), id="enlarged"),
        pytest.param(MobilePlan(arch="nasnet-mobile"), id="mobile", marks=pytest.mark.slow),
    ],
)
def test_engines_agree_on_patches_of_a_padded_network(plan: Plan) -> None:
    made = settled(plan, noise(12, 96, 96, seed=1))
    patches = noise(9, 96, 96)
    exact = reference(made, patches)
    assert exact.shape == (9, 1, 1)
    assert exact.std() > 0.02
    for name in ENGINES:
        engine = make_engine(made, Backend(name, "cpu", "fp32", 1))
        for count in (9, 2):  # one compiled graph for every batch
            np.testing.assert_allclose(
                engine(patches[:count]), exact[:count], rtol=0, atol=TOLERANCE["fp32"]
            )


# --- the choice ------------------------------------------------------------------------------


def test_openvino_is_for_the_cpu_and_torch_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 2)
    assert choose(None, "cpu", "fp32", 1).engine == "openvino"
    assert choose(None, "cuda", "fp16", 1).engine == "torch"
    assert choose(None, "cuda:1", "bf16", 1).engine == "torch"
    assert choose("torch", "cpu", "fp32", 1).engine == "torch"


@pytest.mark.parametrize(
    ("name", "device", "precision", "parts"),
    [
        ("openvino", "cuda", "fp32", ("--engine openvino", "use --engine torch")),
        ("openvino", "cpu", "fp16", ("--engine openvino has no fp16", "--engine torch")),
        (None, "cuda:2", "fp32", ("--device cuda:2", "2 CUDA devices", "use --device cpu")),
        ("torch", "gpu", "fp32", ("--device gpu: not a device", "cuda:1")),
        (None, "cuda:x", "fp32", ("--device cuda:x: not a device",)),
        (None, "", "fp32", ("not a device",)),
    ],
)
def test_a_combination_that_does_not_exist(
    name: Name | None,
    device: str,
    precision: Precision,
    parts: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 2)
    with pytest.raises(ConfigError) as error:
        choose(name, device, precision, 1)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_cuda_says_so() -> None:
    with pytest.raises(ConfigError, match="0 CUDA devices; use --device cpu"):
        choose(None, "cuda", "fp32", 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", get_args(Precision))
def test_cuda_stays_within_its_tolerance(precision: Precision, network: Network) -> None:
    pixels = noise(2, 256, 190)
    scores = make_engine(network, Backend("torch", "cuda", precision, 2))(pixels)
    np.testing.assert_allclose(
        scores, reference(network, pixels), rtol=0, atol=TOLERANCE[precision]
    )


@pytest.mark.parametrize(
    ("gpus", "engine", "device"), [(0, "openvino", "cpu"), (2, "torch", "cuda")]
)
def test_auto_takes_a_gpu_where_there_is_one(
    gpus: int, engine: Name, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cuda_devices", lambda: gpus)
    assert choose(None, "auto", "fp32", 3) == Backend(engine, device, "fp32", 3)


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_where_the_processor_has_it(
    has: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidescan.engines.openvino.engine.has_bf16", lambda: has)
    assert choose(None, "cpu", "auto", 1).precision == precision
    # Measured slower on narrow networks.
    assert choose("torch", "cpu", "auto", 1).precision == "fp32"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks /proc what there is")
def test_the_processor_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    flags = Path("/proc/cpuinfo").read_text()
    assert has_bf16() == ("avx512_bf16" in flags or "amx_bf16" in flags)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert not has_bf16()


def test_fp16_on_a_cpu_is_left_to_torch() -> None:
    assert choose(None, "cpu", "fp16", 1).engine == "torch"
    assert choose(None, "cpu", "bf16", 1).engine == "openvino"
