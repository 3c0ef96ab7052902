"""A run's checkpoint in one file: tensors, the rest as JSON in its header, and a checksum of both.

A damaged checkpoint would often load, and training would go on with other weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from slidescan.errors import DataError
from slidescan.tools.atomic_files import replacing
from slidescan.tools.regular_files import read_regular

_KEY, _SHA256 = "slidescan", "sha256"
_MOST_BYTES = 4 * 2**30


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`; on a full disk the previous one stays."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    content = safetensors.torch.save(plain, {_KEY: text, _SHA256: _digest(plain, text)})
    with replacing(path) as beside:
        beside.write_bytes(content)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, the rest). Raises `DataError` if the file is not a whole checkpoint."""
    try:
        content = read_regular(path, _MOST_BYTES)
        tensors = safetensors.torch.load(content)
        # The length of the header, and the header, which safetensors has checked.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        told = dict(header["__metadata__"])
        text, sha256 = told.pop(_KEY), told.pop(_SHA256, None)
        # Earlier versions wrote no checksum.
        if told or sha256 not in (None, _digest(tensors, text)):
            raise ValueError("its checksum is wrong, so the file is damaged")
        return tensors, json.loads(text)
    except (OSError, SafetensorError, TypeError, LookupError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not a checkpoint that can be read ({error}); choose another --out"
        ) from error


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of names, types, shapes and bytes of the tensors, and of the rest."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
