"""Builds the engine that `backend.choose` named."""

from __future__ import annotations

from slidescan.engines.backend import Backend, beside_int8
from slidescan.networks.network import Network
from slidescan.networks.quantised import quantised
from slidescan.networks.shift_and_stitch import ShiftAndStitch
from slidescan.protocols import Engine


def check(network: Network | ShiftAndStitch, backend: Backend) -> None:
    """Raise the `ConfigError` that `make_engine` would raise, in no time."""
    if beside_int8(backend.precision):
        quantised(network)


def make_engine(network: Network | ShiftAndStitch, backend: Backend) -> Engine:
    """Build the engine that `choose` named.

    Raises `ConfigError` where int8 finds nothing to speed up in a network.
    """
    # Imported here: each engine's library takes seconds to load.
    if backend.engine == "torch":
        from slidescan.engines.torch_engine import TorchEngine

        return TorchEngine(network, backend.device, backend.precision, backend.threads)
    from slidescan.engines.openvino.engine import OpenVINOEngine

    if beside := beside_int8(backend.precision):
        return OpenVINOEngine(quantised(network), beside, backend.threads)
    return OpenVINOEngine(network, backend.precision, backend.threads)
