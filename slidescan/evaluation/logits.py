"""Logits of labelled patches, to fit a calibration to."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from slidescan.networks.network import Network
from slidescan.patches.labelled import Patches
from slidescan.protocols import BATCH
from slidescan.tools.hardware import keep_freed_memory


def tumour_logits(
    network: Network,
    patches: Patches,
    device: str,
    threads: int,
    on_patches: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float64]:
    """Return log-odds of tumour (N,) in fp32, computed as by the torch engine.

    `on_patches` is called with the number of patches of each batch.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    moved, found = copy.deepcopy(network).to(device), []
    # As TorchEngine: cuDNN would compute fp32 in TF32.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for start in range(0, len(patches), BATCH):
            pixels = patches.pixels(slice(start, start + BATCH))
            x = torch.as_tensor(pixels).to(device).permute(0, 3, 1, 2).float()
            logits = moved(x)[:, :, 0, 0]
            found.append((logits[:, 1] - logits[:, 0]).double().cpu().numpy())
            on_patches(len(pixels))
    return np.concatenate(found)
