"""The reference engine: the network as it is, on a CPU or a CUDA device."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from slidescan.machine import keep_freed_memory
from slidescan.networks.finer import Finer
from slidescan.networks.network import Network, probability

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """Channels-last inference; below fp32 under autocast.

    `threads` sets torch's intra-op threads for the whole process, which is what torch has.
    """

    def __init__(self, network: Network | Finer, device: str, precision: str, threads: int) -> None:
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.set_num_threads(threads)
        # A copy: moving the caller's network would change it under other engines.
        self.network = copy.deepcopy(network).eval().to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = _TYPES[precision]

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w) float32."""
        # torch warns of arrays it may not write to, as Pillow's are, and refuses mirrored ones.
        x = torch.from_numpy(np.require(pixels, requirements=("C", "W"))).to(self.device)
        x = x.permute(0, 3, 1, 2).float()
        half = self.dtype is not torch.float32
        with (
            torch.autocast(self.device.type, self.dtype, enabled=half),
            # cuDNN would take TF32 for fp32, which has 10 bits of mantissa.
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            logits = self.network(x)
        scores: NDArray[np.float32] = probability(logits.float()).cpu().numpy()
        return scores
