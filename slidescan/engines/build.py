"""Builds the engine that `backend.choose` named, for a model or for a network in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slidescan.engines.backend import Backend, beside_int8
from slidescan.engines.graph_cache import GraphCache
from slidescan.models.model import Model
from slidescan.protocols import Engine

# The engine of a cached graph must not import torch.
if TYPE_CHECKING:
    from slidescan.networks.network import Network
    from slidescan.networks.shift_and_stitch import ShiftAndStitch


def make_engine(network: Network | ShiftAndStitch, backend: Backend) -> Engine:
    """The engine of a network in memory; its graph is not cached.

    Raises `ConfigError` where int8 finds nothing to speed up in a network, or where OpenVINO has
    no kernel for the precision.
    """
    if backend.engine == "torch":
        from slidescan.engines.torch_engine import TorchEngine

        return TorchEngine(network, backend.device, backend.precision, backend.threads)
    return _openvino(_compiled(network, backend), backend)


def load_engine(model: Model, stride_px: int, backend: Backend, graphs: GraphCache) -> Engine:
    """The engine of a model at its own stride or a finer one.

    OpenVINO runs the graph in `graphs` where there is one, and torch is not imported. Raises
    `ModelError` where the weights do not fit the card's plan, and `ConfigError` for a stride that
    `ShiftAndStitch` refuses, where int8 finds nothing to speed up, or where OpenVINO has no kernel
    for the precision.
    """
    if backend.engine == "torch":
        return make_engine(_network(model, stride_px), backend)
    from slidescan.engines.openvino.graph_key import graph_key

    key = graph_key(model.card, backend.precision, stride_px)
    graph = graphs.get(key, lambda: _compiled(_network(model, stride_px), backend))
    return _openvino(graph, backend)


def check(model: Model, stride_px: int, backend: Backend, graphs: GraphCache) -> None:
    """Raise what `load_engine` would raise, without compiling anything."""
    if backend.engine == "openvino":
        from slidescan.engines.openvino.graph_key import graph_key

        if graphs.has(graph_key(model.card, backend.precision, stride_px)):
            return
    network = _network(model, stride_px)
    if beside_int8(backend.precision):
        from slidescan.networks.quantised import quantised

        quantised(network)


def _network(model: Model, stride_px: int) -> Network | ShiftAndStitch:
    if stride_px == model.card.stride_px:
        return model.network
    from slidescan.networks.shift_and_stitch import ShiftAndStitch

    return ShiftAndStitch(model.network, stride_px)


def _compiled(network: Network | ShiftAndStitch, backend: Backend) -> bytes:
    from slidescan.engines.openvino.compiling import compiled
    from slidescan.networks.quantised import quantised

    if beside_int8(backend.precision):
        network = quantised(network)
    return compiled(network, _floating_point(backend))


def _openvino(graph: bytes, backend: Backend) -> Engine:
    from slidescan.engines.openvino.engine import OpenVINOEngine

    return OpenVINOEngine(graph, _floating_point(backend), backend.threads)


def _floating_point(backend: Backend) -> str:
    """The precision of the layers that are not in 8 bits."""
    return beside_int8(backend.precision) or backend.precision
