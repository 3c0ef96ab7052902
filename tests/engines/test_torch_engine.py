"""The torch engine's precisions and strategies, and engines that are several."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier, Lock
from typing import Any, get_args

import networks
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from settled import settled
from torch import Tensor, nn

from benchmarks.support.peak import counted
from slidescan.commands.terminal import Terminal
from slidescan.engines import scan_modes
from slidescan.engines.backend import TOLERANCE, Backend, Precision
from slidescan.engines.engine_pool import LANES, EnginePool, make_engine
from slidescan.engines.ensemble import Ensemble
from slidescan.engines.torch_engine import Repeated, Strategy, TorchEngine, Tuned, _capturing
from slidescan.errors import ConfigError
from slidescan.maps.store import Heatmap
from slidescan.networks.network import Network
from slidescan.networks.shift_and_stitch import ShiftAndStitch
from slidescan.protocols import Engine, Parallel, Selective
from slidescan.scanning import pipeline
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session
from slidescan.tools import hardware

TIMEOUT = 30.0
"""Seconds after which threads that wait for each other in vain give up."""

Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def noise(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    """A colour for every 32 px and some noise, so that cells differ from each other."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 192, (count, -(-height // 32), -(-width // 32), 3))
    colours = blocks.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
    return (colours + rng.integers(0, 64, colours.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> Network:
    return settled(networks.plan("4/2 3 4/2 3", "R N", dense=8), noise(1, 300, 300, seed=1), 0.5)


def engine(
    network: Network | ShiftAndStitch, precision: Precision = "fp32", **how: Any
) -> TorchEngine:
    return TorchEngine(network, "cpu", precision, 1, **how)


# --- precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("pool", ["mean", "max", "log-sum-exp", "attention"])
def test_half_stays_within_its_tolerance_behind_every_head(precision: Precision, pool: str) -> None:
    plan = networks.plan("4/2 3 4/2", "R", pool=pool, grid=3, dense=8)
    made = settled(plan, noise(1, 200, 200, seed=1), 0.5)
    pixels = noise(2, 160, 140)
    exact = engine(made)(pixels)
    assert exact.std() > 0.05

    off = np.abs(engine(made, precision)(pixels) - exact)
    assert 0 < off.max() <= TOLERANCE[precision]


def test_half_stays_within_its_tolerance_at_a_finer_stride(network: Network) -> None:
    pixels, finer = noise(1, 158, 158), ShiftAndStitch(network, 4)
    off = np.abs(engine(finer, "bf16")(pixels) - engine(finer)(pixels))
    assert 0 < off.max() <= TOLERANCE["bf16"]


def test_half_holds_sums_that_are_beyond_fp16(network: Network) -> None:
    # A variance of 1e6 is one of values around 1,000, which fp16 has.
    loud = settled(networks.plan("4/2 3 4/2", "R", dense=8), noise(1, 200, 200, seed=1), 0.5)
    with torch.no_grad():
        body = loud.body
        assert isinstance(body.stem, nn.Sequential)
        first, norm = body.stem[0], body.stem[1]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        first.weight.mul_(1000)
        norm.running_mean.mul_(1000)
        norm.running_var.mul_(1e6)
    assert norm.running_var.max() > torch.finfo(torch.float16).max
    pixels = noise(1, 160, 140)
    off = np.abs(engine(loud, "fp16")(pixels) - engine(loud)(pixels))
    assert 0 < off.max() <= TOLERANCE["fp16"]


def test_weights_are_halved_once_and_not_at_every_call(network: Network) -> None:
    made = engine(network, "bf16")
    cast = []

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if getattr(func, "__name__", "") in ("to", "float"):
                cast.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    with Watched():
        made(noise(1, 96, 96))
    # To float, to bf16 ahead of the body, and back behind it; upload and weights not among them.
    assert len(cast) == 3


# --- memory ----------------------------------------------------------------------------------


def test_a_full_card_is_an_error_of_one_line(network: Network) -> None:
    def full(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    made = engine(network)
    made.run = full
    with pytest.raises(ConfigError, match="out of memory on 2 x 120 x 104 px") as error:
        made(noise(2, 120, 104))
    assert "\n" not in str(error.value)


def test_pinned_memory_is_used_again_and_holds_any_image(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that pixels take to a GPU, without one."""
    asked, empty = [], torch.empty

    def pinned(size: int, *, dtype: torch.dtype, pin_memory: bool) -> Tensor:
        assert pin_memory
        asked.append(size)
        return empty(size, dtype=dtype)

    exact, made = engine(network), engine(network)
    made._stream, made._pinned = object(), empty(0, dtype=torch.uint8)  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: Lock())  # any context
    whole = noise(2, 140, 150)
    whole.setflags(write=False)
    images = [whole[:1], whole, whole[1:, 10:130, 139:19:-1], whole[:, ::-1], noise(1, 96, 96)]
    for image in images:
        expected = exact(image)
        with monkeypatch.context() as patched:
            patched.setattr(torch, "empty", pinned)
            uploaded = made._upload(image)
        np.testing.assert_array_equal(uploaded.numpy(), image)
        np.testing.assert_array_equal(made.run(uploaded).detach().numpy(), expected)
    assert asked == [whole[:1].size, whole.size]


# --- strategies ------------------------------------------------------------------------------


def test_a_shape_that_comes_again_is_prepared_and_no_more_than_there_is_room_for() -> None:
    prepared = []

    def prepare(x: Tensor) -> Callable[[Tensor], Tensor]:
        prepared.append(x.numel())
        return lambda again: again + 1

    run = Repeated(lambda x: x + 0.5, prepare, 3)
    images = [torch.zeros(1, n) for n in range(1, 6)]
    assert [float(run(x)[0, 0]) for x in images] == [0.5] * 5
    assert prepared == []
    for _ in range(2):
        assert [float(run(x)[0, 0]) for x in images] == [1.0] * 3 + [0.5] * 2
    assert prepared == [1, 2, 3]


def test_a_graph_is_given_each_image_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that make and use one, without a GPU; their arguments are held to torch's own."""
    signature = inspect.signature(torch.cuda.graph)
    ran: list[Tensor] = []
    made: list[Tensor] = []

    def run(x: Tensor) -> Tensor:
        ran.append(x)
        made.append(x + 1)
        return made[-1]

    class Recorded:
        def replay(self) -> None:
            made[0].copy_(ran[0] + 1)

    @contextmanager
    def graph(*args: Any, **how: Any) -> Iterator[None]:
        given = signature.bind(*args, **how).arguments
        assert isinstance(given["cuda_graph"], Recorded)
        assert (given["pool"], given["stream"]) == ("the pool", "the stream")
        # Other engines allocate meanwhile.
        assert given["capture_error_mode"] == "thread_local"
        assert ran == []
        yield
        assert len(ran) == 1

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "the pool")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    first = torch.tensor([3.0])
    replay = _capturing(run)(first)
    assert float(replay(torch.tensor([5.0]))) == 6
    assert float(first) == 3  # the caller's image is left alone
    assert len(ran) == 1


def test_kernels_are_tried_on_the_largest_image_alone() -> None:
    tried = []

    def run(x: Tensor) -> Tensor:
        tried.append((x.numel(), torch.backends.cudnn.benchmark))
        return x

    tuned = Tuned(run)
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    for size in (3, 2, 3, 5, 4, 5):
        tuned(torch.zeros(size))
    assert tried == [(3, True), (2, False), (3, False), (5, True), (4, False), (5, False)]
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32) == before


def test_trying_kernels_leaves_tf32_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []
    Tuned(lambda x: seen.append(torch.backends.cudnn.allow_tf32) or x)(torch.zeros(1))  # type: ignore[func-returns-value]
    assert seen == [False]


def test_a_tuned_engine_gives_the_same(network: Network) -> None:
    pixels = noise(1, 130, 110)
    np.testing.assert_array_equal(
        engine(network, strategy="tuned")(pixels), engine(network)(pixels)
    )


def test_graphs_are_for_a_gpu(network: Network) -> None:
    with pytest.raises(ConfigError, match="strategy graphs: is for CUDA, not cpu; use plain"):
        engine(network, strategy="graphs")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's own, about the inside of its compiler
def test_a_compiled_engine_gives_the_same(network: Network) -> None:
    made, plain = engine(network, strategy="compiled"), engine(network)
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    for shape in ((1, 130, 110), (1, 130, 110), (3, 96, 96), (1, 130, 110)):
        np.testing.assert_allclose(
            made(noise(*shape)), plain(noise(*shape)), rtol=0, atol=TOLERANCE["fp32"]
        )
    assert counters["unique_graphs"] - before == 1  # of the shape that came again


# --- several engines -------------------------------------------------------------------------


@dataclass
class Fake:
    """Marks what it scores by its name, and holds callers to one call at a time."""

    name: int
    meet: Barrier | None = None
    calls: int = 0
    lock: Any = field(default_factory=Lock)

    def __call__(self, pixels: Pixels) -> Scores:
        assert self.lock.acquire(blocking=False), "two calls at a time"
        try:
            self.calls += 1
            if self.meet:
                self.meet.wait(TIMEOUT)
            if not pixels.size:
                raise ValueError("no pixels")
            return np.full(pixels.shape[:3], self.name, np.float32)
        finally:
            self.lock.release()


class Choosy(Fake):
    """Fulfils Selective."""

    def select(self, pixels: Pixels, wanted: NDArray[np.bool_]) -> Scores:
        return np.where(wanted, self(pixels), np.float32(np.nan))


IMAGE = np.zeros((1, 2, 2, 3), np.uint8)


def test_as_many_calls_as_engines_run_at_a_time() -> None:
    meet = Barrier(3)  # broken unless three are within a call together
    fakes = [Fake(i, meet) for i in range(3)]
    spread = EnginePool(fakes)
    assert spread.at_once == 3
    with ThreadPoolExecutor(9) as pool:  # more than there are engines
        found = [scores[0, 0, 0] for scores in pool.map(spread, [IMAGE] * 12)]
    assert sorted(set(found)) == [0, 1, 2]
    assert sum(fake.calls for fake in fakes) == 12


def test_an_engine_that_failed_is_free_again() -> None:
    fake = Fake(7)
    spread = EnginePool([fake])
    with pytest.raises(ValueError, match="no pixels"):
        spread(IMAGE[:0])
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(spread, IMAGE).result(TIMEOUT).max() == 7


def test_tiles_are_dealt_out_in_turn() -> None:
    spread = EnginePool([Fake(0), Fake(1), Fake(2)])
    assert [int(spread(IMAGE)[0, 0, 0]) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_cells_that_nobody_wants_stay_left_out() -> None:
    wanted = np.array([[[True, False], [False, True]]])
    chosen = EnginePool([Choosy(1)]).select(IMAGE, wanted)
    np.testing.assert_array_equal(np.isnan(chosen), ~wanted)
    assert np.isfinite(EnginePool([Fake(1)]).select(IMAGE, wanted)).all()
    assert isinstance(EnginePool([Fake(1)]), Selective)
    assert isinstance(EnginePool([Fake(1)]), Parallel)


@pytest.mark.parametrize(
    ("device", "made"),
    [
        ("cuda", ["cuda:0", "cuda:1", "cuda:2"] * LANES),
        ("cuda:1", ["cuda:1"] * LANES),
        ("cpu", ["cpu"]),
    ],
)
def test_cuda_is_every_gpu_that_torch_sees(
    device: str, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 3)
    backends = []

    def make(backend: Backend) -> Engine:
        backends.append(backend)
        return Fake(len(backends))

    built = make_engine(make, Backend("torch", device, "bf16", 5))
    assert backends == [Backend("torch", name, "bf16", 5) for name in made]
    assert isinstance(built, EnginePool) == (device != "cpu")


@pytest.mark.parametrize(
    ("threads", "lanes", "shares"),
    [(1, 4, [1]), (2, 4, [1, 1]), (7, 4, [2, 2, 2, 1]), (16, 4, [4, 4, 4, 4]), (8, 1, [8])],
)
def test_engines_on_a_cpu_share_its_threads(threads: int, lanes: int, shares: list[int]) -> None:
    made: list[int] = []

    def make(backend: Backend) -> Engine:
        made.append(backend.threads)
        return Fake(0)

    built = make_engine(make, Backend("openvino", "cpu", "fp32", threads), lanes)
    assert made == shares
    assert isinstance(built, EnginePool) == (len(shares) > 1)


def test_two_engines_in_two_threads_score_as_one_does(network: Network) -> None:
    images = [noise(1, 96 + 8 * i, 104, seed=i) for i in range(8)]
    alone = engine(network)
    spread = EnginePool([engine(network), engine(network)])
    with ThreadPoolExecutor(spread.at_once) as pool:
        for found, image in zip(pool.map(spread, images), images, strict=True):
            np.testing.assert_array_equal(found, alone(image))


def test_a_map_is_dealt_out_to_every_gpu(
    section: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def on_cpu(ensemble: Ensemble, mode: str, stride: int, backend: Backend) -> Engine:
        made = ensemble.engine(replace(backend, device="cpu"), stride)

        def score(pixels: Pixels) -> Scores:
            used.append(backend.device)
            return made(pixels)

        return score

    how = {"engine": "torch", "threads": 1, "models": (str(tiny_model),)}
    Session(Options(device="cpu", **how), Terminal()).run(section, tmp_path / "one.zarr")
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 2)
    monkeypatch.setattr(scan_modes, "make", on_cpu)
    monkeypatch.setattr(pipeline, "TILE_PX", 128)
    Session(Options(device="cuda", **how), Terminal()).run(section, tmp_path / "two.zarr")
    maps = [Heatmap.open(tmp_path / name) for name in ("one.zarr", "two.zarr")]
    one, two = (heatmap.read(heatmap.grid.cells) for heatmap in maps)
    assert np.isfinite(one).any()
    np.testing.assert_allclose(two, one, rtol=0, atol=TOLERANCE["fp32"])
    assert set(used) == {"cuda:0", "cuda:1"}


# --- what the benchmark counts ---------------------------------------------------------------


def test_arithmetic_is_counted_without_the_halo() -> None:
    made = networks.network(networks.plain("4/2 3 2/2p 3", filters=8)).float()
    # Multiplications and additions: filters x kernel x channels at the layer's own stride.
    layers = 8 * 16 * 3 / 2**2 + 8 * 9 * 8 / 2**2 + 8 * 9 * 8 / 4**2
    classifier = 2 * 8 / 4**2
    assert counted(made, "fp32")[0] == 2 * (layers + classifier)


def test_bytes_are_counted_layer_by_layer() -> None:
    made = networks.network(networks.plain("4/2", filters=8)).float()
    pixels, features, logits = 3 * 4, 8 * 4 / 2**2, 2 * 4 / 2**2
    before = 3 + pixels + 2 * 2 * pixels  # to float; minus the mean, over the deviation
    body = pixels + features + 2 * features  # convolution, BatchNorm
    head = 2 * 2 * features + features + logits  # ReLU, a pool of one cell, classifier
    after = logits + logits / 2 + logits  # their difference, its sigmoid
    assert counted(made, "fp32")[1] == before + body + head + after
    # To bf16 and back; half of the body.
    cast = pixels + pixels / 2 + features / 2 + features
    assert counted(made, "bf16")[1] == before + cast + body / 2 + head + after


# --- on a GPU --------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("strategy", get_args(Strategy))
@pytest.mark.parametrize("precision", get_args(Precision))
def test_every_strategy_equals_the_cpu(
    strategy: Strategy, precision: Precision, network: Network
) -> None:
    made, exact = TorchEngine(network, "cuda", precision, 1, strategy), engine(network)
    images = [noise(1, 130, 110), noise(3, 96, 96, seed=1), noise(1, 260, 300, seed=2)]
    for _ in range(3):  # a graph is captured at the second, used at the third
        for image in images:
            np.testing.assert_allclose(made(image), exact(image), rtol=0, atol=TOLERANCE[precision])


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("strategy", ["plain", "graphs"])
def test_engines_on_one_gpu_do_not_disturb_each_other(strategy: Strategy, network: Network) -> None:
    images = [noise(1, 96 + 8 * (i % 3), 104, seed=i) for i in range(60)]
    alone = TorchEngine(network, "cuda", "fp32", 1)
    spread = EnginePool([TorchEngine(network, "cuda", "fp32", 1, strategy) for _ in range(3)])
    with ThreadPoolExecutor(spread.at_once) as pool:
        for found, image in zip(pool.map(spread, images), images, strict=True):
            np.testing.assert_array_equal(found, alone(image))


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_engine_has_tf32_off_for_good(network: Network) -> None:
    TorchEngine(network, "cuda", "fp32", 1)
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic
