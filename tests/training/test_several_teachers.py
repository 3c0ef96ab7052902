"""Several teachers are one ensemble: the mean of their probabilities, and a record of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import learning
import networks
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from learning import STILL, TINY, VALIDATION, tiny
from slidescan_train.loop.learner import Learner, Outcome, tumour
from slidescan_train.loop.loader import Loader
from slidescan_train.runs.run import refuse_another
from slidescan_train.teachers.graph import Graph
from slidescan_train.teachers.teacher import Teacher, load_teachers, opinion
from torch import Tensor

from slidescan.cli import main
from slidescan.engines.backend import Backend
from slidescan.engines.ensemble import Ensemble
from slidescan.engines.openvino.engine import has_bf16
from slidescan.errors import ConfigError, ModelError
from slidescan.models.ancestors import Ancestor
from slidescan.models.card import Card
from slidescan.models.model import load, save
from slidescan.patches.labelled.splits import ids_sha256

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
PIXELS = VALIDATION.pixels(slice(5))
PATCHES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float()


def teacher(name: str, network: Callable[[Tensor], Tensor]) -> Teacher:
    return Teacher(Ancestor(name=name, sha256=name * 64), network)


def saying(*logits: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.tensor([logits]).expand(len(x), -1)


# --- the mean -------------------------------------------------------------------------------


def test_the_opinion_is_the_mean_of_the_probabilities() -> None:
    several = [teacher("a", saying(0, 2)), teacher("b", saying(3, -1)), teacher("c", saying(0.5))]
    p = [torch.tensor(logit).sigmoid() for logit in (2.0, -4.0, 0.5)]
    told = opinion(several, PATCHES)
    assert told.shape == (len(PATCHES), 2)
    torch.testing.assert_close(tumour(told), (sum(p) / 3).expand(len(PATCHES)))
    torch.testing.assert_close(told.exp().sum(1), torch.ones(len(PATCHES)))


def test_a_certain_teacher_does_not_outvote_another() -> None:
    certain, doubtful = teacher("a", saying(-1000, 1000)), teacher("b", saying(1, 0))
    told = opinion([certain, doubtful], PATCHES)
    assert told.isfinite().all()
    expected = (1 + torch.tensor(-1.0).sigmoid()) / 2  # the mean of the logits would say 1
    torch.testing.assert_close(tumour(told), expected.expand(len(PATCHES)))


def test_one_teacher_is_followed_to_the_bit() -> None:
    alone = teacher("a", saying(0.3, -0.7))
    assert torch.equal(opinion([alone], PATCHES), alone(PATCHES))


def test_a_step_with_several_teachers_is_one_with_their_mean() -> None:
    certain, doubtful = teacher("a", saying(-3, 3)), teacher("b", saying(2, -2))
    p = (torch.tensor(6.0).sigmoid() + torch.tensor(-4.0).sigmoid()) / 2
    mean = teacher("c", saying(float(p.logit())))
    config = tiny(mixup=0.5, distil={"weight": 1.0, "temperature": 2.0})
    losses = [
        loss_of_a_step(learning.learner(config, teachers=teachers))
        for teachers in ([certain, doubtful], [mean], [certain])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] != pytest.approx(losses[2], rel=0.1)


def loss_of_a_step(learner: Learner) -> float:
    """The loss of a step of two micro-batches."""
    parts = [np.arange(0, 8), np.arange(8, 12)]
    with Loader(VALIDATION, learner.config.augment, 0, 0) as loader:
        return learner.step(loader.load(1, parts), parts, 0.01, (0,)).loss


# --- models as teachers ---------------------------------------------------------------------


def saved(folder: Path, name: str, seed: int, **about: object) -> Path:
    """A small model whose statistics are random, so that evaluation mode shows in its answers."""
    folder.mkdir(exist_ok=True)
    known = {
        "mpp": 0.972,
        **{"data": "noise", "split": "none", "reproduce": "pytest", "versions": {}},
        "validation": {"patches": 10, "auc": 0.5, "accuracy": 0.5, "nll": 0.7},
        "held_out_sha256": ids_sha256(VALIDATION.ids),
    }
    save(folder / f"{name}.safetensors", networks.network(TINY, seed).float(), **known | about)
    return folder / f"{name}.safetensors"


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return saved(tmp_path / "models", "one", 1), saved(tmp_path / "models", "two", 2)


def test_teachers_say_what_predict_says_of_the_same_models(two: tuple[Path, Path]) -> None:
    names = [str(path) for path in two]
    engine = Ensemble.load(names).engine(Backend("torch", "cpu", "fp32", 1))
    expected = torch.from_numpy(engine(PIXELS)[:, 0, 0])
    assert expected.std() > 0.001
    for sources in names, names[::-1]:  # the order has no effect, to the bit
        told = opinion(load_teachers(sources, CPU), PATCHES)
        torch.testing.assert_close(tumour(told), expected, atol=1e-6, rtol=0)
        assert torch.equal(told, opinion(load_teachers(names, CPU), PATCHES))


def test_a_teacher_in_a_graph_answers_as_its_network_does(two: tuple[Path, Path]) -> None:
    (told,), network = load_teachers([str(two[0])], CPU), load(str(two[0])).network
    assert isinstance(told.network, Graph)
    for size in 5, 1, 3:  # an epoch's last micro-batch is smaller
        expected = network(PATCHES[:size])[:, :, 0, 0]
        torch.testing.assert_close(told(PATCHES[:size]), expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not has_bf16(), reason="the processor has no bf16")
def test_a_teacher_runs_in_the_precision_of_the_training(two: tuple[Path, Path]) -> None:
    (exact,) = load_teachers([str(two[0])], CPU, "32-true")
    (rounded,) = load_teachers([str(two[0])], CPU, "bf16-mixed")
    assert 0 < (tumour(exact(PATCHES)) - tumour(rounded(PATCHES))).abs().max() < 0.02


def test_a_teacher_named_twice_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    shutil.copy(two[0], copy)
    shutil.copy(two[0].with_suffix(".json"), copy.with_suffix(".json"))
    with pytest.raises(ModelError, match=r"--teacher .*copy.safetensors: named twice"):
        load_teachers([str(two[0]), str(two[1]), str(copy)], CPU)


# --- the command ----------------------------------------------------------------------------


def train(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", "--threads", "1", *map(str, args)])


def settings(path: Path) -> Path:
    """Everything that a teacher has to go along with."""
    shifts = STILL | {"d4": {"p": 1}, "one_of": {"translation": {"p": 1, "px": 32}}}
    chosen = tiny(
        **{"augment": shifts, "mixup": 0.2, "batch": 32, "micro_batch": 8},
        checkpoint_minutes=1e-9,
        distil={"weight": 1.0, "temperature": 2.0},
    )
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    return path


def test_a_run_with_two_teachers_records_both_and_resumes(
    kaggle: Path, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--data", kaggle, "--config", settings(tmp_path / "a.yaml"), "--out")
    one, other = (("--teacher", path) for path in two)
    done = train(*options, tmp_path / "whole", *one, *other)
    assert (done.exit_code, done.stderr) == (0, "")
    whole = tmp_path / "whole" / "last.safetensors"
    card = load(str(whole)).card
    expected = {load(str(path)).ancestor.sha256: load(str(path)).ancestor for path in two}
    assert card.teachers == tuple(expected[sha256] for sha256 in sorted(expected))

    out = tmp_path / "interrupted"
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "step", interrupted_at(2, Learner.step))
        assert "interrupted; " in train(*options, out, *one, *other).stderr
    assert (out / "checkpoint.safetensors").exists()
    assert not (out / "last.safetensors").exists()
    alone = train(*options, out, *one, "--resume")
    assert alone.exit_code == 1
    assert "begun with other settings: teachers: [" in alone.stderr
    again = train(*options, out, *other, *one, "--resume")
    assert again.exit_code == 0, again.output
    assert (out / "last.safetensors").read_bytes() == whole.read_bytes()


def interrupted_at(number: int, step: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """`step`, which raises KeyboardInterrupt in place of the step of this number, from 0."""
    taken = count()

    def strike(*args: object) -> Outcome:
        if next(taken) == number:
            raise KeyboardInterrupt
        return step(*args)

    return strike


def test_a_checkpoint_of_an_earlier_version_had_one_teacher_or_none(tmp_path: Path) -> None:
    same = {"config": tiny().model_dump(mode="json"), "data": "3" * 64, "start": None}
    refuse_another(tmp_path, same | {"teacher": None}, same | {"teachers": []})
    one = same | {"teacher": "1" * 64}
    refuse_another(tmp_path, one, same | {"teachers": ["1" * 64]})
    for teachers in [], ["2" * 64], ["1" * 64, "2" * 64]:
        with pytest.raises(ConfigError, match=rf'teachers: \["{"1" * 64}"\] there, '):
            refuse_another(tmp_path, one, same | {"teachers": teachers})


def test_a_run_warns_of_each_teacher_that_may_know_its_validation_patches(
    kaggle: Path, two: tuple[Path, Path], tmp_path: Path
) -> None:
    learned = saved(tmp_path / "models", "learned", 3, held_out_sha256="0" * 64)
    taught = saved(tmp_path / "models", "taught", 4, teachers=[load(str(learned)).ancestor])
    options = ("--data", kaggle, "--config", settings(tmp_path / "a.yaml"))
    named = [word for path in (*two, taught, learned) for word in ("--teacher", path)]
    done = train(*options, *named, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    said = {line.partition(" was trained")[0] for line in done.stderr.strip().split("\n")}
    chain = "Warning: --teacher taught, its teacher learned"
    assert said == {"Warning: --teacher learned", chain}


def test_show_names_each_teacher(two: tuple[Path, Path], tmp_path: Path) -> None:
    ancestors = [load(str(path)).ancestor for path in two]
    student = saved(tmp_path / "models", "student", 5, teachers=ancestors)
    shown = CliRunner().invoke(main, ["models", "show", str(student)])
    lines = [line for line in shown.stdout.splitlines() if line.startswith("teacher ")]
    assert [line.split()[1] for line in lines] == ["one,", "two,"]


def test_a_card_of_an_earlier_version_has_one_teacher_or_none(two: tuple[Path, Path]) -> None:
    card = json.loads(two[0].with_suffix(".json").read_text())
    del card["teachers"]
    parent = {"name": "parent", "sha256": "1" * 64, "teacher": None}
    grown = {"name": "grown", "sha256": "2" * 64, "teacher": parent}
    read = Card.model_validate(card | {"teacher": grown})
    (teacher,) = read.teachers
    assert isinstance(teacher, Ancestor)
    assert teacher.teachers == (Ancestor(name="parent", sha256="1" * 64),)
    assert Card.model_validate(card | {"teacher": None}).teachers == ()
    assert Card.model_validate_json(read.model_dump_json()) == read
