"""The reference engine: the unchanged network in torch, on a CPU or a CUDA device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slidescan.errors import ConfigError
from slidescan.networks.body import Body
from slidescan.networks.network import Network, probability
from slidescan.networks.shift_and_stitch import ShiftAndStitch
from slidescan.tools.hardware import keep_freed_memory

Strategy = Literal["plain", "tuned", "compiled", "graphs"]
"""How a network is run. plain: layer by layer. tuned: with the fastest of cuDNN's kernels, tried on
the largest image. compiled: by torch.compile. graphs: by CUDA graphs."""

COMPILED = 2
"""The most shapes that are compiled; each takes a minute. torch 2.13 cannot compile one graph for
all sizes of a valid network (ValueRangeError)."""
GRAPHS = 8
"""The most shapes that get a CUDA graph; each takes memory."""

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Run = Callable[[Tensor], Tensor]
"""RGB (N, H, W, 3) uint8 to P(tumour) (N, h, w) float32, on one device."""

# torch captures one graph at a time in a process, and its settings hold for the whole process.
_one = Lock()


class TorchEngine:
    """Channels-last inference. bf16 and fp16 apply to the body; normalisation and head stay fp32.

    On a CUDA device each engine has a stream and pinned memory of its own, so two engines in two
    threads (see `engine_pool`) copy and compute at the same time.

    Two settings hold for the whole process, because torch has no others: `threads` sets the
    intra-op threads, and an engine on a CUDA device switches off TF32 and kernels whose results are
    not reproducible.
    """

    def __init__(
        self,
        network: Network | ShiftAndStitch,
        device: str,
        precision: str,
        threads: int,
        strategy: Strategy = "plain",
    ) -> None:
        self.device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            # TF32 has 10 bits of mantissa. A resumed map must equal one made in a single run.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            self._pinned = torch.empty(0, dtype=torch.uint8)
        else:
            keep_freed_memory()
        torch.set_num_threads(threads)
        with self.on_stream():
            # A copy: other engines may use the caller's network.
            scores = Scores(copy.deepcopy(network).eval(), TYPES[precision]).to(self.device)
            scores.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.run: Run = _by(strategy, scores, self.device)
            """The network without copies: takes pixels on the device, within `on_stream`."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w) float32.

        Raises `ConfigError` where a CUDA device has too little memory left.
        """
        with torch.inference_mode(), self.on_stream():
            try:
                # Waits for the stream, so the pinned memory is free again.
                scores: NDArray[np.float32] = self.run(self._upload(pixels)).cpu().numpy()
            except torch.OutOfMemoryError as error:
                count, height, width, _ = pixels.shape
                raise ConfigError(
                    f"--device {self.device}: out of memory on {count} x {height} x {width} px; "
                    "nvidia-smi shows what else uses it; or use another --device, e.g. cpu"
                ) from error
        return scores

    def on_stream(self) -> AbstractContextManager[object]:
        """A context in which CUDA work is queued on this engine's stream."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def _upload(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Copy pixels to the device; to a CUDA device asynchronously."""
        if self._stream is None:
            # torch warns of read-only arrays, as Pillow's are, and refuses negative strides.
            return torch.from_numpy(np.require(pixels, requirements=("C", "W")))
        if self._pinned.numel() < pixels.size:
            self._pinned = torch.empty(pixels.size, dtype=torch.uint8, pin_memory=True)
        host = self._pinned[: pixels.size].view(pixels.shape)
        np.copyto(host.numpy(), pixels)
        return host.to(self.device, non_blocking=True)


class Scores(nn.Module):
    """From pixels (N, H, W, 3) uint8 to P(tumour) (N, h, w)."""

    def __init__(self, network: Network | ShiftAndStitch, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        if dtype is not torch.float32:
            inner = network.network if isinstance(network, ShiftAndStitch) else network
            inner.body = _Half(inner.body, dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        # A view: the pixels are channels-last in memory already.
        return probability(self.network(pixels.permute(0, 3, 1, 2).float()))


class _Half(Body):
    """A body in bf16 or fp16, whose input and output are fp32.

    Autocast would convert every weight in every call. BatchNorm's statistics stay fp32, because
    they exceed the range of fp16; torch accepts the mixture.
    """

    def __init__(self, body: Body, dtype: torch.dtype) -> None:
        super().__init__()
        self.body, self.dtype = body, dtype
        for module in body.modules():
            if not isinstance(module, nn.BatchNorm2d):
                for weight in module.parameters(recurse=False):
                    weight.data = weight.data.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x.to(self.dtype))
        return features.float()


def _by(strategy: Strategy, scores: nn.Module, device: torch.device) -> Run:
    match strategy:
        case "plain":
            return scores
        case "tuned":
            return Tuned(scores)
        case "compiled":
            compiled: Run = torch.compile(scores, dynamic=False, mode="max-autotune-no-cudagraphs")
            return Repeated(scores, lambda x: compiled, COMPILED)
        case "graphs":
            if device.type != "cuda":
                raise ConfigError(f"strategy graphs: is for CUDA, not {device}; use plain")
            return Repeated(scores, _capturing(scores), GRAPHS)


class Tuned:
    """Lets cuDNN try its kernels on each image that is larger than all before.

    Whole tiles recur; most tiles that are cut to the tissue do not, and a trial costs as much as
    ten images. Kernels are chosen by their measured time, so the last bits of a result may differ
    between runs.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._largest = run, 0

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() <= self._largest:
            return self._run(x)
        self._largest = x.numel()
        with (
            _one,
            torch.backends.cudnn.flags(
                enabled=True, benchmark=True, deterministic=True, allow_tf32=False
            ),
        ):
            return self._run(x)


class Repeated:
    """Prepares a shape when it recurs, up to `most` shapes; other shapes run unprepared.

    Tiles are cut to the tissue, so there are tens of shapes, but most images are whole tiles.
    """

    def __init__(self, run: Run, prepare: Callable[[Tensor], Run], most: int) -> None:
        self._run, self._prepare, self._most = run, prepare, most
        self._met: set[torch.Size] = set()
        self._prepared: dict[torch.Size, Run] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """The result may be overwritten by the next call."""
        if x.shape in self._met - self._prepared.keys() and len(self._prepared) < self._most:
            self._prepared[x.shape] = self._prepare(x)
        self._met.add(x.shape)
        return self._prepared.get(x.shape, self._run)(x)


def _capturing(run: Run) -> Callable[[Tensor], Run]:
    """A function that captures `run` as a CUDA graph, on the stream on which it is called.

    A shape is captured when it recurs: its first image has done the set-up that a capture forbids.
    """
    # One pool for all graphs: one runs at a time, and its result is read before the next one runs.
    pool = torch.cuda.graph_pool_handle()

    def capture(x: Tensor) -> Run:
        given, graph = x.clone(), torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        # thread_local: other engines allocate memory meanwhile.
        with _one, torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            found = run(given)

        def replay(x: Tensor) -> Tensor:
            given.copy_(x)
            graph.replay()
            return found

        return replay

    return capture
