"""Nothing leaves the machine: no command opens a socket."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import networks
import offline
import patches
import pytest
import yaml

for needed in "slidescan_train.augmentation", "monai":
    pytest.importorskip(needed)


@dataclass(frozen=True)
class Outcome:
    """How one step of the process ended."""

    code: int
    heard: list[str]
    packages: list[str]
    stdout: str
    stderr: str


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=Path(offline.__file__).parent,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def outcomes(section: Path, tiny_model: Path, folder: Path) -> dict[str, Outcome]:
    """Every step in one process: importing all that they use takes longer than the steps."""
    data, config = patches.write(folder / "data", patches.make(120)), folder / "config.yaml"
    plan = networks.plan("4/2 3 4/2", "R", filters=2, dense=4).model_dump(mode="json")
    config.write_text(yaml.safe_dump({"plan": plan, "epochs": 1, "batch": 16, "micro_batch": 16}))
    annotations, vertices = folder / "annotations", [[200, 200], [400, 200], [400, 400]]
    annotations.mkdir()
    lesion = {"positive": [{"name": "L", "vertices": vertices}], "negative": []}
    (annotations / "section.json").write_text(json.dumps(lesion))
    used = ("--model", tiny_model, "--threads", 1)
    heatmap, table = folder / "section.zarr", folder / "scores.csv"
    steps = {
        "scan": [("heatmap", section, "--out", heatmap, *used)],
        "diagnosis": [("doctor", *used)],
        "evaluation": [
            ("predict", data / "train", "--out", table, *used, "--engine", "torch", "--tta", "d4"),
            ("evaluate", "patches", table, data / "train_labels.csv", "--out", folder / "scores"),
            ("evaluate", "slides", heatmap, "--annotations", annotations, "--out", folder / "froc"),
        ],
        "training": [
            ("train", "--data", data, "--config", config, "--out", folder / "run", "--threads", 1)
        ],
    }
    (folder / "steps.json").write_text(json.dumps(steps, default=str))
    done = python(offline.__file__, folder / "steps.json", folder)
    assert done.returncode in (0, 99), done.stderr
    outcome = json.loads((folder / "outcome.json").read_text())
    if not any(step["heard"] for step in outcome.values()):
        assert done.returncode == 0, done.stderr  # 99: heard while the process ended
    return {
        name: Outcome(
            **step,
            stdout=(folder / f"{name}.stdout").read_text(),
            stderr=(folder / f"{name}.stderr").read_text(),
        )
        for name, step in outcome.items()
    }


def quiet(outcome: Outcome) -> None:
    """It ended well and opened no socket, nor was one opened and the error swallowed."""
    assert outcome.code == 0, outcome.stderr
    assert outcome.heard == []


def test_a_scan_opens_no_socket(outcomes: dict[str, Outcome], folder: Path) -> None:
    scan = outcomes["scan"]
    quiet(scan)
    assert (folder / "section.zarr").exists()
    assert scan.stderr == ""
    assert "openvino" in scan.packages
    assert "openvino_telemetry" not in scan.packages


def test_a_diagnosis_opens_no_socket(outcomes: dict[str, Outcome]) -> None:
    diagnosis = outcomes["diagnosis"]
    quiet(diagnosis)
    assert "exactness" in diagnosis.stdout
    assert diagnosis.stderr == ""
    assert "openvino_telemetry" not in diagnosis.packages


def test_an_evaluation_opens_no_socket(outcomes: dict[str, Outcome], folder: Path) -> None:
    evaluation = outcomes["evaluation"]
    quiet(evaluation)
    assert (folder / "scores" / "metrics.json").exists()
    assert (folder / "froc" / "metrics.json").exists()
    assert "monai" in evaluation.packages


def test_a_training_opens_no_socket(outcomes: dict[str, Outcome], folder: Path) -> None:
    training = outcomes["training"]
    quiet(training)
    assert (folder / "run" / "last.json").exists()
    assert "albumentations" in training.packages
    assert "albumentations" not in outcomes["scan"].packages  # imported under the guard


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "from urllib.request import urlopen; urlopen('http://localhost')",
        "import socket; socket.socketpair()[0].sendto(b'', '/tmp/elsewhere')",
    ],
)
def test_the_guard_hears_what_is_swallowed(code: str) -> None:
    done = python(
        "-c",
        f"import offline; offline.listen()\ntry: exec({code!r})\nexcept Exception: pass",
    )
    assert done.returncode == 99
    assert done.stderr
