"""A network in an ONNX file as a teacher, run by OpenVINO."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slidescan.errors import ModelError
from slidescan.tools.child_pool import ChildPool
from slidescan.tools.child_process import CallError, ChildEndedError
from slidescan_train.teachers.graph import Graph
from slidescan_train.teachers.onnx_files import cannot_run, does_not_take, parse, read

PROCESSES = ChildPool("slidescan_train.teachers.onnx_process", rooms=1, room_bytes=4096, most=1)

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
        """Read and compile the file. Raises `ModelError` where it is not such a network.

        Another process does so first: what makes OpenVINO crash, or take all memory, ends there.
        """
        content = read(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._path = path
        _attempt(path)
        model = parse(path, content)
        self._probabilities = _ends_in_probabilities(model)
        try:
            # In bf16 a probability of 0.998 would be 1.
            self._graph = Graph(model, "fp32")
        except RuntimeError as error:
            raise cannot_run(path, error) from error

    def __call__(self, x: Tensor) -> Tensor:
        """Logits on the device of `x`. Raises `ModelError` where the graph refuses the batch."""
        try:
            values = self._graph(x)
        except RuntimeError as error:
            raise does_not_take(self._path, len(x), error) from error
        return _logits(values) if self._probabilities else values


def _attempt(path: Path) -> None:
    try:
        child = PROCESSES.take()
    except OSError as error:
        raise ModelError(f"{path}: the process that tries it cannot be started: {error}") from error
    try:
        child.call("attempt", path=str(path.absolute()))
    except CallError as error:
        raise ModelError(str(error)) from error
    except ChildEndedError as error:
        raise ModelError(
            f"{path}: OpenVINO crashed at it ({error}); the file is damaged or was made to do so"
        ) from error
    finally:
        PROCESSES.keep(child)


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
