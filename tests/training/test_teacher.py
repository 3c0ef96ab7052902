"""Distillation: what teachers are taken, what is refused, and that a student follows."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import learning
import networks
import numpy as np
import pytest
import torch
from learning import TINY, VALIDATION, fit, tiny
from slidescan_train.loop.learner import predict, tumour
from slidescan_train.teachers.teacher import Teacher, load_teacher
from torch import Tensor, nn

from slidescan.errors import ModelError
from slidescan.models.card import Ancestor
from slidescan.networks.logit_map import LogitMap
from slidescan.networks.network import Network

CPU = torch.device("cpu")
PATCHES = torch.from_numpy(VALIDATION.pixels(slice(5))).permute(0, 3, 1, 2).float()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    yield from networks.one_thread()


class Outputs(nn.Module):
    """A network of another kind, whose logits come in one of several shapes."""

    def __init__(self, shape: tuple[int, ...] = (-1, 2)) -> None:
        super().__init__()
        self.shape = shape
        self.layer = nn.Conv2d(3, abs(int(np.prod(shape[1:]))), 96, padding=48, stride=96)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)[:, :, :1, :1].reshape(self.shape)
        return out


def record(name: str) -> Ancestor:
    return Ancestor(name=name, sha256="0" * 64)


def exported(path: Path, network: nn.Module, dynamic: bool = True) -> Path:
    shapes: Any = ({0: torch.export.Dim("batch", min=2)},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about the inside of torch.export
        program = torch.export.export(
            network.eval(), (torch.zeros(2, 3, 96, 96),), dynamic_shapes=shapes
        )
        torch.export.save(program, path)
    return path


def refused(source: Path | str, *parts: str) -> None:
    with pytest.raises(ModelError) as error:
        load_teacher(str(source), CPU)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_saved_model_teaches(tiny_model: Path) -> None:
    from slidescan.models.model import load

    teacher, model = load_teacher(str(tiny_model), CPU), load(str(tiny_model))
    assert (teacher.name, teacher.record.sha256) == ("tiny", model.card.weights_sha256)
    assert (teacher.record.data, teacher.record.reproduce) == ("none", "pytest")
    torch.testing.assert_close(teacher(PATCHES), model.network(PATCHES)[:, :, 0, 0])


@pytest.mark.parametrize("shape", [(-1, 2), (-1, 2, 1, 1), (-1, 1)])
def test_an_exported_program_teaches(shape: tuple[int, ...], tmp_path: Path) -> None:
    network = Outputs(shape)
    teacher = load_teacher(str(exported(tmp_path / "elsewhere.pt2", network)), CPU)
    logits = network(PATCHES).flatten(1)
    one = logits.shape[1] == 1
    expected = logits[:, 0].sigmoid() if one else logits.softmax(1)[:, 1]

    sha256 = hashlib.sha256((tmp_path / "elsewhere.pt2").read_bytes()).hexdigest()
    assert teacher.record == Ancestor(name="elsewhere", sha256=sha256)  # and nothing else is known
    torch.testing.assert_close(tumour(teacher(PATCHES)), expected)


def test_teachers_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "none.pt2", "none.pt2: no such file")
    (tmp_path / "text.pt2").write_text("weights")
    refused(tmp_path / "text.pt2", "not a program that this torch can load")
    refused("nobody", "nobody: no model card")
    refused(exported(tmp_path / "many.pt2", Outputs((-1, 5))), "gives (2, 5)", "logits (N, 2)")
    fixed = exported(tmp_path / "fixed.pt2", Outputs((2, 2)), dynamic=False)
    refused(fixed, "does not take 3 RGB patches", "dynamic batch size")


class Trap:
    """What a pickle could do to who loads it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def tampered(path: Path, change: Callable[[str, bytes], bytes], **added: bytes) -> Path:
    out = path.with_name(f"tampered-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        root = source.namelist()[0].partition("/")[0]
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
        for name, content in added.items():
            target.writestr(f"{root}/data/{name}", content)
    return out


def test_no_pickle_of_a_program_is_loaded(tmp_path: Path) -> None:
    path = exported(tmp_path / "program.pt2", Outputs())
    trap = io.BytesIO()
    torch.save(Trap(), trap)

    def inputs(name: str, content: bytes) -> bytes:
        return trap.getvalue() if "/sample_inputs/" in name else content

    def weights(name: str, content: bytes) -> bytes:
        if not name.endswith("model_weights_config.json"):
            return trap.getvalue() if "/weights/weight_" in name else content
        config = json.loads(content)
        for entry in config["config"].values():
            entry["use_pickle"] = True
        return json.dumps(config).encode()

    refused(tampered(path, inputs), "not a program that this torch can load")
    refused(tampered(path, weights), "is a pickle or a library")
    for name in "constants/custom_obj_0", "constants/opaque_obj_0", "aotinductor/model/x.so":
        added = tampered(path, lambda _, content: content, **{name: pickle.dumps(Trap())})
        refused(added, f"{name} in it is a pickle or a library")


def test_a_student_follows_its_teacher_and_not_the_labels() -> None:
    # A teacher who knows the labels and says the opposite.
    told, _ = fit(tiny(epochs=4, ema=0.5))
    contrary = Teacher(record("contrary"), lambda x: -told.average(x)[:, :, 0, 0])
    follow = {"distil": {"weight": 1.0, "temperature": 1.0}}
    _, kept = fit(tiny(epochs=4, ema=0.5, **follow), teacher=contrary)
    assert kept.epochs[-1].validation_auc < 0.2

    ignore = {"distil": {"weight": 0.0}}
    _, kept = fit(tiny(epochs=4, ema=0.5, **ignore), teacher=contrary)
    assert kept.epochs[-1].validation_auc > 0.9


def test_the_teacher_sees_what_the_student_sees() -> None:
    seen: list[Tensor] = []

    def watch(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros(len(x), 2)

    taught = learning.learner(tiny(mixup=0.5), teacher=Teacher(record("watch"), watch))
    shown: list[Tensor] = []
    taught.network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    from slidescan_train.loop.loader import Loader

    parts = np.array_split(np.arange(16), 2)
    with Loader(VALIDATION, taught.config.augment, 0, 0) as loader:
        rows = [part % len(VALIDATION) for part in parts]
        taught.step(loader.load(1, rows), rows, 0.01, (0,))
    assert len(seen) == len(shown) == 2
    for one, other in zip(seen, shown, strict=True):
        torch.testing.assert_close(one, other)


def test_a_start_is_kept_until_the_first_step() -> None:
    begun = networks.randomise(Network(TINY))
    made = learning.learner(tiny(), start=begun)
    for network in made.network, made.average:
        torch.testing.assert_close(
            predict(network.eval(), VALIDATION, CPU), predict(begun.eval(), VALIDATION, CPU)
        )
    assert all(p.requires_grad for p in made.network.parameters())


def test_a_calibrated_start_is_trained_without_its_calibration(tmp_path: Path) -> None:
    calibration = LogitMap(temperature=3.0)
    begun = networks.randomise(Network(TINY, calibration)).eval()
    made = learning.learner(tiny(), start=begun)
    torch.testing.assert_close(
        predict(made.network.eval(), VALIDATION, CPU), predict(begun, VALIDATION, CPU) * 3
    )


def test_a_calibrated_teacher_is_another_one(tiny_model: Path, tmp_path: Path) -> None:
    card = json.loads(tiny_model.with_suffix(".json").read_text())
    figures = dict.fromkeys(("nll_before", "nll_after", "ece_before", "ece_after"), 0.1)
    card["calibration"] = {
        **{"temperature": 2.0, "fitted_on": "none", "patches": 1, "ece_cross_fitted": None},
        **figures,
    }
    (tmp_path / "hot.json").write_text(json.dumps(card))
    (tmp_path / "hot.safetensors").write_bytes(tiny_model.read_bytes())
    plain, hot = (load_teacher(str(p), CPU) for p in (tiny_model, tmp_path / "hot.safetensors"))
    assert plain.record.sha256 != hot.record.sha256
    torch.testing.assert_close(hot(PATCHES) * 2, plain(PATCHES))
