"""Nothing leaves the machine: neither a scan, nor training, nor evaluation opens a socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networks
import pytest
import yaml

# Runs first in a process of its own. AF_UNIX pairs are asyncio's own, inside the process.
GUARD = """
import atexit, os, sys

def guard(event, args):
    local = event == "socket.__new__" and args[1] == 1
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")) and not local:
        if event not in ("socket.gethostname",):
            heard.append(f"{event} {args}")
            raise PermissionError(f"the network: {event} {args}")

def report():
    # Libraries may swallow the error; this they cannot.
    if heard:
        print(*heard, sep="\\n", file=sys.stderr, flush=True)
        os._exit(99)

heard = []
sys.addaudithook(guard)
atexit.register(report)
"""

TRAIN = """
from slidescan.cli import main
main(sys.argv[1:], standalone_mode=False)
assert "albumentations" in sys.modules
"""

EVALUATE = """
from slidescan.cli import main
then = sys.argv.index("then")
for arguments in sys.argv[1:then], sys.argv[then + 1:]:
    main(arguments, standalone_mode=False)

import numpy as np
from slidescan.evaluation.froc import Scored, froc
assert froc([Scored(np.float32([0.2]), np.float32([0.9]))]).score == 1
assert "monai" in sys.modules
"""

SCAN = """
from slidescan.cli import main
main(sys.argv[1:], standalone_mode=False)
assert "openvino" in sys.modules
telemetry = [name for name in sys.modules if name.split(".")[0] == "openvino_telemetry"]
assert not any(sys.modules[name] for name in telemetry), telemetry
"""


def guarded(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", GUARD + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_scan_opens_no_socket(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.zarr"
    command = ("heatmap", section, "--out", out, "--model", tiny_model, "--threads", 1)
    done = guarded(SCAN, *command)
    assert done.returncode == 0, done.stderr
    assert out.exists()
    assert done.stderr == ""


def test_a_diagnosis_opens_no_socket(tiny_model: Path) -> None:
    done = guarded(SCAN, "doctor", "--model", tiny_model, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "exactness" in done.stdout
    assert done.stderr == ""


def test_a_training_opens_no_socket(tmp_path: Path) -> None:
    pytest.importorskip("slidescan_train.augmentation")
    import patches

    data = patches.write(tmp_path / "data", patches.make(120))
    config = tmp_path / "config.yaml"
    plan = networks.plan("4/2 3 4/2", "R", filters=2, dense=4).model_dump(mode="json")
    config.write_text(yaml.safe_dump({"plan": plan, "epochs": 1, "batch": 16, "micro_batch": 16}))
    out = tmp_path / "run"
    done = guarded(TRAIN, "train", "--data", data, "--config", config, "--out", out)
    assert done.returncode == 0, done.stderr
    assert (out / "last.json").exists()


def test_an_evaluation_opens_no_socket(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("monai")
    import patches

    data, table = patches.write(tmp_path / "data", patches.make(40)), tmp_path / "p.csv"
    done = guarded(
        EVALUATE,
        *("predict", data / "train", "--out", table, "--model", tiny_model),
        *("--engine", "torch", "--threads", 1, "--tta", "d4"),
        "then",
        *("evaluate", "patches", table, data / "train_labels.csv", "--out", tmp_path / "scores"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores" / "metrics.json").exists()


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
    done = guarded(f"try: exec({code!r})\nexcept Exception: pass")
    assert done.returncode == 99
    assert done.stderr
