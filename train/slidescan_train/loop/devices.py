"""Devices, processes and memory: set up with Lightning Fabric, from configuration and torchrun."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from slidescan.errors import ConfigError
from slidescan.tools.hardware import cores, keep_freed_memory
from slidescan_train.recipe.config import Precision, TrainConfig


def make_fabric(config: TrainConfig, device: str = "auto", threads: int | None = None) -> Fabric:
    """Set up this process: alone, or one of those that torchrun started, each with its device.

    `device` is cpu, cuda, or auto: cuda if there is a device. `threads` is per process; without it
    the processes share the processors.

    Raises:
        ConfigError: there are fewer devices than processes.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    world = int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.device_count() < local:
        raise ConfigError(
            f"--device cuda: torch finds {torch.cuda.device_count()} CUDA devices for {local} "
            "processes here; use --device cpu, or fewer processes"
        )
    keep_freed_memory()
    torch.set_num_threads(threads or max(1, cores() // local))
    # Fabric logs the precision, which the configuration has already.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        # The buffers are BatchNorm's statistics, which the learner averages itself.
        strategy=DDPStrategy(broadcast_buffers=False) if world > 1 else "auto",
        precision=_arithmetic(config.precision, device),
    )
    fabric.launch()
    return fabric


def _arithmetic(wanted: Precision, device: str) -> Precision:
    """Return 32-true for bf16-mixed on a CPU without bf16, which would be slower with it."""
    if wanted == "bf16-mixed" and device == "cpu":
        from slidescan.engines.openvino.engine import has_bf16

        return wanted if has_bf16() else "32-true"
    return wanted


def precision_of(fabric: Fabric) -> str:
    """Return the precision of the steps, in the words of `TrainConfig.precision`."""
    return str(fabric.strategy.precision.precision)


def worker_count(config: TrainConfig, fabric: Fabric) -> int:
    """Return how many processes prepare batches for each training process; 0: a thread.

    On a CPU a thread suffices, as the network needs the processors; with a GPU they are idle.
    """
    if config.workers is not None:
        return config.workers
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return 0 if fabric.device.type == "cpu" else max(1, cores() // local)


@contextmanager
def repeatable(config: TrainConfig) -> Iterator[None]:
    """Use deterministic kernels on a GPU if the configuration asks for them."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.benchmark = not config.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def memory_errors(config: TrainConfig) -> Iterator[None]:
    """Name the setting to lower when memory runs out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_large(config) from error
    except RuntimeError as error:
        # On a CPU torch raises no more specific error.
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise _too_large(config) from error
        raise


def _too_large(config: TrainConfig) -> ConfigError:
    half = max(2, config.micro_batch // 2)
    return ConfigError(
        f"out of memory with {config.micro_batch} patches at a time; lower micro_batch, e.g. "
        f"--set micro_batch={half}: a step keeps its {config.batch} patches"
    )
