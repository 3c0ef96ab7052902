"""Teachers to distil from: any saved slidescan model, or a program saved by torch.export."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slidescan.errors import ModelError
from slidescan.geometry import PATCH_PX
from slidescan.models.card import Ancestor
from slidescan.models.model import load
from slidescan.networks.heads import CLASSES


@dataclass(frozen=True, slots=True)
class Teacher:
    """Gives logits (N, 2) for RGB patches (N, 3, 96, 96) with values 0..255."""

    record: Ancestor
    """What a student's card says of it."""
    network: Callable[[Tensor], Tensor]

    @property
    def name(self) -> str:
        return self.record.name

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        return _two_logits(self.network(x).float(), self.name)


def load_teacher(source: str, device: torch.device) -> Teacher:
    """A shipped model's name, FILE.safetensors with its card, or FILE.pt2 of torch.export.

    An exported program takes what slidescan's own networks take, RGB (N, 3, 96, 96) float32
    with values 0..255 and any N, normalises by itself, and gives logits: (N, 2), (N, 2, 1, 1), or
    (N, 1) of tumour alone. Raises `ModelError`.
    """
    if source.endswith(".pt2"):
        teacher = _exported(Path(source), device)
    else:
        model = load(source)
        teacher = Teacher(model.ancestor, model.network.to(device))
    _try(teacher, device)
    return teacher


def _exported(path: Path, device: torch.device) -> Teacher:
    try:
        content = path.read_bytes()
        _refuse_pickles(path)
        with _weights_only():
            program = torch.export.load(path)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: no such file; --teacher wants a model or an exported program"
        ) from error
    except ModelError:
        raise
    except Exception as error:  # whatever a damaged archive makes torch raise
        raise ModelError(
            f"{path}: not a program that this torch can load: {' '.join(str(error).split())[:200]}"
        ) from error
    # Its guards are source code, which torch would run.
    module = program.module(check_guards=False).to(device)
    return Teacher(Ancestor(name=path.stem, sha256=hashlib.sha256(content).hexdigest()), module)


_CODE = re.compile(r"/data/(aotinductor/|constants/(custom_obj|opaque_obj))")


def _refuse_pickles(path: Path) -> None:
    """torch.export packs what is no plain tensor as a pickle or a library, which run any code."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            pickled = name.endswith("_config.json") and re.search(
                rb'"use_pickle":\s*true', archive.read(name)
            )
            if pickled or _CODE.search(name):
                raise ModelError(
                    f"{path}: {name} in it is a pickle or a library, which may run any code; "
                    "export a network whose weights and constants are plain tensors"
                )


@contextmanager
def _weights_only() -> Iterator[None]:
    """Whatever torch.load is asked for inside, it takes tensors alone."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _two_logits(logits: Tensor, name: str) -> Tensor:
    flat = logits.flatten(1)
    if flat.shape[1] == 1:
        return torch.cat([torch.zeros_like(flat), flat], 1)
    if flat.shape[1] != CLASSES:
        raise ModelError(
            f"teacher {name}: gives {tuple(logits.shape)} for {len(logits)} patches; it must give "
            f"logits (N, {CLASSES}), of normal and tumour, or (N, 1), of tumour"
        )
    return flat


def _try(teacher: Teacher, device: torch.device) -> None:
    """Two batch sizes, before the data are read."""
    for count in 2, 3:
        try:
            teacher(torch.zeros(count, 3, PATCH_PX, PATCH_PX, device=device))
        except ModelError:
            raise
        except Exception as error:  # any kind comes out of a program from elsewhere
            raise ModelError(
                f"teacher {teacher.name}: does not take {count} RGB patches of {PATCH_PX} px: "
                f"{' '.join(str(error).split())[:200]}; export it with a dynamic batch size"
            ) from error
