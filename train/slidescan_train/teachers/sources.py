"""Checks of what `--teacher` and `--init` name, made before torch is imported."""

from __future__ import annotations

from pathlib import Path

from slidescan.errors import ModelError
from slidescan.geometry import PATCH_PX
from slidescan.models.card import read_card

SHAPE = (3, PATCH_PX, PATCH_PX)
"""Of a patch, as a teacher takes it."""

IMAGENET = "imagenet"
"""The name of the weights that an installed package holds."""
PUBLISHED = (".pth", ".pt")
TORCH_FILES = (".pt2", ".pt", ".pth", ".ckpt", ".bin")
"""Suffixes of files that may hold code."""


def is_published(source: str) -> bool:
    """Whether `source` names published weights rather than a slidescan model."""
    return source == IMAGENET or source.endswith(PUBLISHED)


def is_onnx(source: str) -> bool:
    """Whether `source` names a network in an ONNX file."""
    return source.endswith(".onnx")


def check_teacher(source: str) -> None:
    """Refuse a teacher that is not there or may run code.

    Raises:
        ModelError: no such model or file, or a PyTorch file.
    """
    if source.endswith(TORCH_FILES):
        raise ModelError(
            f"{source}: not read, because a PyTorch file may run code when it is loaded; a teacher "
            "is a slidescan model (FILE.safetensors) or FILE.onnx, which "
            "torch.onnx.export(network, torch.zeros(2, 3, 96, 96), 'FILE.onnx', "
            "external_data=False, dynamic_shapes=({0: 'patches'},)) writes"
        )
    if is_onnx(source):
        _check_file(source, "--teacher")
    else:
        read_card(source)


def check_start(source: str) -> None:
    """Refuse weights for `--init` that are not there.

    Raises:
        ModelError: no such model or file.
    """
    if not is_published(source):
        read_card(source)
    elif source != IMAGENET:
        _check_file(source, "--init")


def _check_file(source: str, option: str) -> None:
    if not Path(source).is_file():
        raise ModelError(f"{source}: no such file; correct {option}")
