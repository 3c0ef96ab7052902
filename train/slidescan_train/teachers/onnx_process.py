"""Tries an ONNX file in a process of its own, which `onnx_network` starts.

OpenVINO follows a graph that feeds itself until no memory is left, and may crash on others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slidescan.engines.openvino.engine import DEVICE, properties
from slidescan.engines.openvino.runtime import ov
from slidescan.errors import ModelError
from slidescan.tools.child_service import AnswerError, Methods, limit_memory, serve
from slidescan_train.teachers.onnx_files import cannot_run, does_not_take, parse, read
from slidescan_train.teachers.sources import SHAPE

BATCHES = (2, 3)
"""A training's batches differ in size."""

LEAST_BYTES, TIMES_FILE = 2 * 2**30, 6
"""Memory of a small file's network, and of a large one's; OpenVINO copies weights a few times."""


def attempt(path: str) -> None:
    """Read, compile and run a file. Raises AnswerError where that fails."""
    try:
        _attempt(Path(path))
    except ModelError as error:
        raise AnswerError(str(error)) from error
    except MemoryError as error:
        raise AnswerError(f"{path}: asks for more memory than a network of its size") from error


def _attempt(path: Path) -> None:
    content = read(path)
    limit_memory(LEAST_BYTES + TIMES_FILE * len(content))
    model = parse(path, content)
    try:
        compiled = ov.Core().compile_model(model, DEVICE, properties("fp32", 1))
    except RuntimeError as error:
        raise cannot_run(path, error) from error
    for count in BATCHES:
        try:
            compiled([np.zeros((count, *SHAPE), np.float32)])
        except RuntimeError as error:
            raise does_not_take(path, count, error) from error


def prepare(_: memoryview) -> Methods:
    """What the parent can ask for."""
    return {"attempt": attempt, "close": lambda: None}


if __name__ == "__main__":
    serve(prepare)
