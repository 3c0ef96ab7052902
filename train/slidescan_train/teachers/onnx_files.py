"""Networks in ONNX files, which hold a graph and numbers but no code; read by OpenVINO.

Knows nothing of torch: the process that tries a file first starts faster without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slidescan.engines.openvino.runtime import ov
from slidescan.errors import ModelError
from slidescan.models.card import MOST_WEIGHTS
from slidescan.tools.regular_files import read_regular
from slidescan_train.teachers.sources import SHAPE

WANTED = f"it must take float32 RGB (N, {', '.join(map(str, SHAPE))}) with values 0..255, any N"

# An entry of external_data in ONNX's protobuf: field 1, 8 bytes, then field 2.
EXTERNAL = b"\x0a\x08location\x12"


def read(path: Path) -> bytes:
    """The bytes of a file. Raises `ModelError` where it cannot be read."""
    try:
        return read_regular(path, MOST_WEIGHTS)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}; correct --teacher") from error


def parse(path: Path, content: bytes) -> Any:
    """A model of one input and one output. Raises `ModelError` where it is no such network."""
    if EXTERNAL in content:
        # The SHA-256 in a student's card would not be that of the weights.
        raise ModelError(
            f"{path}: its weights are in another file; export it with external_data=False"
        )
    try:
        model = ov.Core().read_model(content, b"")
    except RuntimeError as error:
        raise ModelError(
            f"{path}: not an ONNX model that OpenVINO can read: {_reason(error)}"
        ) from error
    _check(path, model)
    return model


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


def cannot_run(path: Path, error: RuntimeError) -> ModelError:
    """What compiling it said."""
    return ModelError(f"{path}: OpenVINO cannot run it: {_reason(error)}")


def does_not_take(path: Path, patches: int, error: RuntimeError) -> ModelError:
    """What running it said."""
    return ModelError(f"{path}: does not take {patches} patches: {_reason(error)}; {WANTED}")


def _reason(error: RuntimeError) -> str:
    """What OpenVINO says, without the places in its own sources."""
    if "bad_alloc" in str(error):
        return "it asks for more memory than a network of its size needs"
    lines = (line.strip() for line in str(error).splitlines())
    said = [x for x in lines if x and not x.startswith(("Exception from", "Check ", "FrontEnd "))]
    return " ".join(said)[:200].rstrip(". ") or "no reason given"
