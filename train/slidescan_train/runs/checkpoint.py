"""A run's checkpoint in one file: tensors, and the rest as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slidescan.errors import DataError
from slidescan.tools.atomic_files import replacing

_KEY = "slidescan"


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`; on a full disk the previous one stays."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(plain, {_KEY: json.dumps(about)})
    with replacing(path) as beside:
        beside.write_bytes(content)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, the rest). Raises `DataError` if the file is not a whole checkpoint."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[_KEY])
        return safetensors.torch.load(path.read_bytes()), about
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a checkpoint that can be read ({error}); choose another --out"
        ) from error
