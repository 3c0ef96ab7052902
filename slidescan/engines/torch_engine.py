"""The reference engine: the network as it is, on a CPU or a CUDA device."""

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
"""How a network is run. plain: layer by layer. tuned: by the fastest of cuDNN's kernels, tried out
on the largest image. compiled: by torch.compile. graphs: by CUDA graphs."""

COMPILED = 2
"""Most shapes that are compiled, which takes a minute each. A graph for every size would do, but
torch 2.13 fails on a valid network of symbolic extents (ValueRangeError)."""
GRAPHS = 8
"""Most shapes that have a CUDA graph, each with memory of its own."""

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Run = Callable[[Tensor], Tensor]
"""RGB (N, H, W, 3) uint8 to P(tumour) (N, h, w) float32, on one device."""

# torch captures one graph at a time in a process, and its settings are those of a process.
_one = Lock()


class TorchEngine:
    """Channels-last inference, below fp32 with half the weights' bits from the first convolution
    to the last features.

    On a CUDA device a call has a stream and pinned memory of its engine's own, so two engines in
    two threads (see `spread`) copy and compute at the same time.

    For the whole process, which is what torch has, `threads` sets its intra-op threads, and an
    engine on a CUDA device switches TF32 and kernels that do not repeat their result off.
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
            # TF32 has 10 bits of mantissa; a map that is gone on with must not differ from one
            # made at once.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            self._pinned = torch.empty(0, dtype=torch.uint8)
        else:
            keep_freed_memory()
        torch.set_num_threads(threads)
        with self.on_stream():
            # A copy: moving the caller's network would change it under other engines.
            scores = Scores(copy.deepcopy(network).eval(), TYPES[precision]).to(self.device)
            scores.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.run: Run = _by(strategy, scores, self.device)
            """The network alone: of pixels on the device, on this engine's stream."""

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
                    "see by nvidia-smi who else uses it, or use another --device, e.g. cpu"
                ) from error
        return scores

    def on_stream(self) -> AbstractContextManager[object]:
        """Within it, what a CUDA device is given to do is in the order of this engine's calls."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def _upload(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The same on the device; on a CUDA device it may still be on its way."""
        if self._stream is None:
            # torch warns of arrays it may not write to, as Pillow's are, and refuses mirrored ones.
            return torch.from_numpy(np.require(pixels, requirements=("C", "W")))
        if self._pinned.numel() < pixels.size:
            self._pinned = torch.empty(pixels.size, dtype=torch.uint8, pin_memory=True)
        host = self._pinned[: pixels.size].view(pixels.shape)
        np.copyto(host.numpy(), pixels)
        return host.to(self.device, non_blocking=True)


class Scores(nn.Module):
    """From pixels as they are read to probabilities."""

    def __init__(self, network: Network | ShiftAndStitch, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        if dtype is not torch.float32:
            inner = network.network if isinstance(network, ShiftAndStitch) else network
            inner.body = _Half(inner.body, dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        # (N, 3, H, W) by strides alone: pixels lie channels-last.
        return probability(self.network(pixels.permute(0, 3, 1, 2).float()))


class _Half(Body):
    """A body with half the bits, between a normalisation and a head that stay fp32.

    Autocast would cast every weight anew at every call. BatchNorm's statistics stay fp32 too, whose
    range fp16 does not have; torch takes them so.
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
    """Has cuDNN try its kernels on every image larger than those before.

    Whole tiles come again and again, while most of those that are cut to tissue come once, and
    trying costs as much as ten images. Kernels are chosen by the clock, so the last bits of a
    result may differ from run to run.
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
    """Runs a shape that comes again by what `prepare` makes for it, `most` shapes; others plainly.

    Tiles are cut to tissue, so there are tens of shapes and most images have that of whole tiles.
    """

    def __init__(self, run: Run, prepare: Callable[[Tensor], Run], most: int) -> None:
        self._run, self._prepare, self._most = run, prepare, most
        self._met: set[torch.Size] = set()
        self._prepared: dict[torch.Size, Run] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """What is given back may be overwritten by the next call."""
        if x.shape in self._met - self._prepared.keys() and len(self._prepared) < self._most:
            self._prepared[x.shape] = self._prepare(x)
        self._met.add(x.shape)
        return self._prepared.get(x.shape, self._run)(x)


def _capturing(run: Run) -> Callable[[Tensor], Run]:
    """What captures `run` on the stream it is called on; by then the shape's first image has set up
    what must not be within a capture."""
    # Shared by all: one graph runs at a time, and its result is taken before the next one runs.
    pool = torch.cuda.graph_pool_handle()

    def capture(x: Tensor) -> Run:
        given, graph = x.clone(), torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        # thread_local: other engines go on allocating meanwhile.
        with _one, torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            found = run(given)

        def replay(x: Tensor) -> Tensor:
            given.copy_(x)
            graph.replay()
            return found

        return replay

    return capture
