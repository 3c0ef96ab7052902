"""Teachers to distil from: a slidescan model, or a network of any other kind as ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slidescan.errors import ModelError
from slidescan.geometry import PATCH_PX
from slidescan.models.ancestors import Ancestor
from slidescan.models.model import load
from slidescan.networks.heads import CLASSES
from slidescan.networks.network import Network
from slidescan_train.teachers.sources import check_teacher, is_onnx


@dataclass(frozen=True, slots=True)
class Teacher:
    """Gives logits (N, 2), of normal and tumour, for RGB patches (N, 3, 96, 96), 0..255."""

    record: Ancestor
    """What a student's card says about it."""
    network: Callable[[Tensor], Tensor]
    """Gives logits (N, 2), or (N, 1) of tumour; further axes have one element."""

    @property
    def name(self) -> str:
        return self.record.name

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        return two_logits(self.network(x).float(), len(x), self.name)


@torch.inference_mode()
def opinion(teachers: Sequence[Teacher], x: Tensor) -> Tensor:
    """Give the logits (N, 2) of the mean of the teachers' probabilities for patches `x`.

    Probabilities are averaged, not logits: this is the ensemble that `predict --model A --model B`
    scores with, and no teacher outweighs the others by being more certain (Hinton et al. 2015 have
    both means; Lakshminarayanan et al. 2017 this one).
    """
    answers = [teacher(x) for teacher in teachers]
    if len(answers) == 1:
        return answers[0]
    log_p = torch.stack([answer.log_softmax(1) for answer in answers])
    return log_p.logsumexp(0) - math.log(len(answers))


def load_teachers(
    sources: Sequence[str], device: torch.device, precision: str = "32-true"
) -> tuple[Teacher, ...]:
    """Load teachers, see `load_teacher`; the order in which they are named has no effect.

    Raises `ModelError` also where one is named twice.
    """
    loaded = dict[str, Teacher]()
    for source in sources:
        teacher = load_teacher(source, device, precision)
        if teacher.record.sha256 in loaded:
            raise ModelError(f"--teacher {source}: named twice; each teacher counts once")
        loaded[teacher.record.sha256] = teacher
    return tuple(loaded[sha256] for sha256 in sorted(loaded))


def load_teacher(source: str, device: torch.device, precision: str = "32-true") -> Teacher:
    """Load a shipped model's name, FILE.safetensors with its card, or FILE.onnx.

    `precision` is that of the training; a slidescan model runs in the same one, an ONNX file in
    float32. docs/teachers.md says what an ONNX file must take and give. Raises `ModelError`; files
    that may hold code (.pt2, .pt, .pth) are refused unread.
    """
    check_teacher(source)
    if is_onnx(source):
        from slidescan_train.teachers.onnx_network import OnnxNetwork

        network = OnnxNetwork(Path(source))
        teacher = Teacher(Ancestor(name=Path(source).stem, sha256=network.sha256), network)
    else:
        model = load(source)
        teacher = Teacher(model.ancestor, _on(device, model.network, precision))
    for count in 2, 3:  # before the data are read: a training's batches differ in size
        teacher(torch.zeros(count, 3, PATCH_PX, PATCH_PX, device=device))
    return teacher


def _on(device: torch.device, network: Network, precision: str) -> Callable[[Tensor], Tensor]:
    """What runs a teacher's network; on the CPU a graph, which takes less of a step's time."""
    if device.type != "cpu":
        return network.to(device)
    from slidescan_train.teachers.graph import Graph

    return Graph.of(network, "bf16" if precision == "bf16-mixed" else "fp32")


def two_logits(logits: Tensor, count: int, name: str) -> Tensor:
    """Bring the answer of teacher `name` for `count` patches into the shape (N, 2)."""
    flat = logits.reshape(len(logits), -1) if logits.dim() else logits.reshape(1, 1)
    if flat.shape == (count, 1):
        return torch.cat([torch.zeros_like(flat), flat], 1)
    if flat.shape != (count, CLASSES):
        raise ModelError(
            f"teacher {name}: gives {tuple(logits.shape)} for {count} patches; it must give "
            f"(N, {CLASSES}), for normal and tumour, or (N, 1), for tumour"
        )
    return flat
