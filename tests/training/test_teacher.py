"""Distillation: what teachers are taken, what is refused, and that a student follows."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import learning
import networks
import numpy as np
import onnx
import pytest
import torch
from learning import TINY, VALIDATION, fit, tiny
from onnx import TensorProto, helper, numpy_helper
from slidescan_train.loop.learner import predict, tumour
from slidescan_train.teachers import onnx_network
from slidescan_train.teachers.teacher import Teacher, load_teacher
from torch import Tensor

from slidescan.errors import ModelError
from slidescan.models.ancestors import Ancestor
from slidescan.networks.logit_map import LogitMap
from slidescan.networks.network import Network

CPU = torch.device("cpu")
PATCHES = torch.from_numpy(VALIDATION.pixels(slice(5))).permute(0, 3, 1, 2).float()


def record(name: str) -> Ancestor:
    return Ancestor(name=name, sha256="0" * 64)


WEIGHTS = np.random.default_rng(0).normal(0, 0.02, (5, 3, 1, 1)).astype(np.float32)


def onnx_file(
    path: Path,
    outputs: int = 2,
    end: str | None = None,
    shape: tuple[str | int, ...] = ("patches", 3, 96, 96),
    kind: int = TensorProto.FLOAT,
    change: Callable[[onnx.GraphProto], object] = lambda graph: None,
) -> Path:
    """A network of another kind: mean colour, one linear layer, then the operation `end`."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["colour"]),
        helper.make_node("Conv", ["colour", "weights"], ["linear"]),
        helper.make_node("Flatten", ["linear"], ["y" if end is None else "flat"]),
    ]
    if end:
        nodes.append(helper.make_node(end, ["flat"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (shape[0], outputs))],
        [numpy_helper.from_array(WEIGHTS[:outputs], "weights")],
    )
    change(graph)
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def linear(outputs: int) -> Tensor:
    """What the layer of `onnx_file` gives for PATCHES."""
    return PATCHES.mean((2, 3)) @ torch.from_numpy(WEIGHTS[:outputs, :, 0, 0]).T


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


@pytest.mark.parametrize(
    ("outputs", "end", "expected"),
    [
        (1, None, linear(1)[:, 0].sigmoid()),
        (1, "Sigmoid", linear(1)[:, 0].sigmoid()),
        (2, None, linear(2).softmax(1)[:, 1]),
        (2, "Softmax", linear(2).softmax(1)[:, 1]),
    ],
)
def test_an_onnx_network_teaches(
    outputs: int, end: str | None, expected: Tensor, tmp_path: Path
) -> None:
    path = onnx_file(tmp_path / "elsewhere.onnx", outputs, end)
    teacher = load_teacher(str(path), CPU)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert teacher.record == Ancestor(name="elsewhere", sha256=sha256)  # and nothing else is known
    torch.testing.assert_close(tumour(teacher(PATCHES)), expected, atol=1e-5, rtol=1e-4)
    rounded = load_teacher(str(path), CPU, "bf16-mixed")  # its probabilities would not bear it
    assert torch.equal(rounded(PATCHES), teacher(PATCHES))


def test_certain_probabilities_are_finite_logits(tmp_path: Path) -> None:
    def louder(graph: onnx.GraphProto) -> None:
        graph.initializer[0].CopyFrom(numpy_helper.from_array(1000 * WEIGHTS[:1], "weights"))

    teacher = load_teacher(str(onnx_file(tmp_path / "a.onnx", 1, "Sigmoid", change=louder)), CPU)
    assert teacher(PATCHES).isfinite().all()


def test_a_student_learns_from_an_onnx_network(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "a.onnx")
    _, kept = fit(tiny(), teachers=[load_teacher(str(path), CPU)])
    assert all(np.isfinite(step.loss) for step in kept.steps)


def test_a_selection_of_a_softmax_is_a_probability(tmp_path: Path) -> None:
    def select(graph: onnx.GraphProto) -> None:
        graph.node[-1].output[0] = "both"
        graph.initializer.append(numpy_helper.from_array(np.array([1]), "tumour"))
        graph.node.append(helper.make_node("Gather", ["both", "tumour"], ["y"], axis=1))
        graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1

    teacher = load_teacher(str(onnx_file(tmp_path / "a.onnx", 2, "Softmax", change=select)), CPU)
    expected = linear(2).softmax(1)[:, 1]
    torch.testing.assert_close(tumour(teacher(PATCHES)), expected, atol=1e-5, rtol=1e-4)


def test_networks_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    def made(name: str, *args: Any, **options: Any) -> Path:
        return onnx_file(tmp_path / f"{name}.onnx", *args, **options)

    refused("nobody", "nobody: no model of this name")
    refused(tmp_path / "none.onnx", "none.onnx: no such file; correct --teacher")
    refused(made("many", 5), "gives (2, 5) for 2 patches", "(N, 1), for tumour")
    refused(made("fixed", shape=(2, 3, 96, 96)), "takes f32 [2,3,96,96]", "any N")
    refused(made("small", shape=("n", 3, 64, 64)), "takes f32 [?,3,64,64]", "(N, 3, 96, 96)")
    refused(made("half", kind=TensorProto.FLOAT16, change=halved), "takes f16", "float32")
    three = made("three", change=lambda graph: graph.output.append(intermediate("colour")))
    refused(three, "1 inputs and 2 outputs; it must have one of each")


def halved(graph: onnx.GraphProto) -> None:
    weights = numpy_helper.from_array(WEIGHTS[:2].astype(np.float16), "weights")
    graph.initializer[0].CopyFrom(weights)
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def intermediate(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def test_damaged_and_unknown_content_is_refused_in_one_line(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "whole.onnx")
    for name, content in {"text": b"weights", "empty": b"", "cut": path.read_bytes()[:60]}.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        refused(tmp_path / f"{name}.onnx", "not an ONNX model that OpenVINO can read")

    def unknown(graph: onnx.GraphProto) -> None:
        graph.node[-1].op_type, graph.node[-1].domain = "Unheard", "elsewhere"

    refused(onnx_file(tmp_path / "unknown.onnx", change=unknown), "elsewhere.Unheard")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_a_graph_that_feeds_itself_takes_no_memory_here(tmp_path: Path) -> None:
    """OpenVINO follows it until no memory is left."""
    import resource

    def feed(graph: onnx.GraphProto) -> None:
        graph.node[1].input.append("linear")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(onnx_file(tmp_path / "a.onnx", change=feed), "asks for more memory than a network of")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20  # kB


def test_a_crash_of_openvino_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_file(tmp_path / "a.onnx")
    with monkeypatch.context() as patched:
        patched.setattr(onnx_network.PROCESSES, "module", "crashing_onnx")
        refused(path, "a.onnx: OpenVINO crashed at it")
    load_teacher(str(path), CPU)


def test_weights_in_another_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(graph: onnx.GraphProto) -> None:
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")

    (tmp_path / "weights.bin").write_bytes(WEIGHTS[:2].tobytes())
    monkeypatch.chdir(tmp_path)
    refused(onnx_file(tmp_path / "a.onnx", change=elsewhere), "in another file", "external_data")


class Trap:
    """What a pickle could do to who loads it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".pth", ".ckpt"])
def test_files_that_may_hold_code_are_refused_unread(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"teacher{suffix}"
    torch.save(Trap(), path)
    refused(path, "may run code", "torch.onnx.export")
    path.unlink()
    refused(path, "may run code")


def test_a_student_follows_its_teacher_and_not_the_labels() -> None:
    # A teacher who knows the labels and says the opposite.
    told, _ = fit(tiny(epochs=4, ema=0.5))
    contrary = Teacher(record("contrary"), lambda x: -told.average(x)[:, :, 0, 0])
    follow = {"distil": {"weight": 1.0, "temperature": 1.0}}
    _, kept = fit(tiny(epochs=4, ema=0.5, **follow), teachers=[contrary])
    assert kept.epochs[-1].validation_auc < 0.2

    ignore = {"distil": {"weight": 0.0}}
    _, kept = fit(tiny(epochs=4, ema=0.5, **ignore), teachers=[contrary])
    assert kept.epochs[-1].validation_auc > 0.9


def test_the_teacher_sees_what_the_student_sees() -> None:
    seen: list[Tensor] = []

    def watch(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros(len(x), 2)

    taught = learning.learner(tiny(mixup=0.5), teachers=[Teacher(record("watch"), watch)])
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
