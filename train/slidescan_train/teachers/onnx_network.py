"""A network in an ONNX file, which holds a graph and numbers but no code, run by OpenVINO."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slidescan.engines.openvino.runtime import ov
from slidescan.errors import ModelError
from slidescan.models.card import MOST_WEIGHTS
from slidescan.tools.regular_files import read_regular
from slidescan_train.teachers.graph import SHAPE, Graph

WANTED = f"it must take float32 RGB (N, {', '.join(map(str, SHAPE))}) with values 0..255, any N"

# An entry of external_data in ONNX's protobuf: field 1, 8 bytes, then field 2.
EXTERNAL = b"\x0a\x08location\x12"
SELECTING = frozenset(
    ("Convert", "Gather", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose")
) | {"Unsqueeze", "VariadicSplit"}
"""Operations that move values and do not change them."""


class OnnxNetwork:
    """Gives logits for RGB patches (N, 3, 96, 96).

    The file gives logits, or probabilities where its last operation is a sigmoid or softmax; those
    are turned into logits.
    """

    def __init__(self, path: Path) -> None:
        """Read and compile the file. Raises `ModelError` where it is not such a network."""
        content = _read(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._path = path
        model = _parse(path, content)
        _check(path, model)
        self._probabilities = _ends_in_probabilities(model)
        try:
            self._graph = Graph(model)
        except RuntimeError as error:
            raise ModelError(f"{path}: OpenVINO cannot run it: {_reason(error)}") from error

    def __call__(self, x: Tensor) -> Tensor:
        """Logits on the device of `x`. Raises `ModelError` where the graph refuses the batch."""
        try:
            values = self._graph(x)
        except RuntimeError as error:
            raise ModelError(
                f"{self._path}: does not take {len(x)} patches: {_reason(error)}; {WANTED}"
            ) from error
        return _logits(values) if self._probabilities else values


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MOST_WEIGHTS)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}; correct --teacher") from error


def _parse(path: Path, content: bytes) -> Any:
    if EXTERNAL in content:
        # The SHA-256 in a student's card would not be that of the weights.
        raise ModelError(
            f"{path}: its weights are in another file; export it with external_data=False"
        )
    try:
        return ov.Core().read_model(content, b"")
    except RuntimeError as error:
        raise ModelError(
            f"{path}: not an ONNX model that OpenVINO can read: {_reason(error)}"
        ) from error


def _check(path: Path, model: Any) -> None:
    if (len(model.inputs), len(model.outputs)) != (1, 1):
        raise ModelError(
            f"{path}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; it must "
            "have one of each"
        )
    shape, kind = model.input(0).partial_shape, model.input(0).element_type
    fits = shape.compatible(ov.PartialShape([-1, *SHAPE])) and kind == ov.Type.f32
    if not (fits and shape[0].is_dynamic):
        raise ModelError(f"{path}: takes {kind.to_string()} {shape.to_string()}; {WANTED}")


def _ends_in_probabilities(model: Any) -> bool:
    node = model.output(0).get_node().input_value(0).get_node()
    while node.get_type_name() in SELECTING:
        node = node.input_value(0).get_node()
    return node.get_type_name() in ("Sigmoid", "Softmax")


def _logits(p: Tensor) -> Tensor:
    """Logits of P(tumour) (N, 1), or of the probabilities of normal and tumour (N, 2)."""
    smallest = torch.finfo(torch.float32).eps
    p = p.clamp(smallest, 1 - smallest)
    flat = p.reshape(len(p), -1)
    return p.log() if flat.shape[1] > 1 else p.logit()


def _reason(error: RuntimeError) -> str:
    """What OpenVINO says, without the places in its own sources."""
    lines = (line.strip() for line in str(error).splitlines())
    said = [x for x in lines if x and not x.startswith(("Exception from", "Check ", "FrontEnd "))]
    return " ".join(said)[:200].rstrip(". ") or "no reason given"
