"""Training with several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import networks
import numpy as np
import pytest
from learning import TINY, TRAINING, furthest, weights
from processes import slidescan
from training_runs import scores, write_settings

from slidescan.models.model import load

pytestmark = pytest.mark.usefixtures("undrawn")


def torchrun(*arguments: object, log: Path) -> int:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    with log.open("wb") as file:
        return subprocess.run(
            [sys.executable, *launch, "slidescan", *map(str, arguments)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
        ).returncode


@pytest.mark.skipif(sys.platform != "linux", reason="gloo")
@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(partial(slidescan, world=2), id="forked"),
        pytest.param(torchrun, id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_two_processes_end_as_one_with_the_same_batch(
    launch: Callable[..., int], kaggle: Path, tmp_path: Path
) -> None:
    config, log = tmp_path / "c.yaml", tmp_path / "log"
    write_settings(config, epochs=2, micro_batch=4, mixup=0.2, optimiser="sgd")
    options = ("train", "--data", kaggle, "--config", config, "--threads", 1, "--out")
    assert slidescan(*options, tmp_path / "one", log=log) == 0, log.read_text()
    assert launch(*options, tmp_path / "two", log=log) == 0, log.read_text()
    said = log.read_text()
    for once in ("epoch 2/2", "best.safetensors: "):
        assert said.count(once) == 1
    assert "deprecated" not in said

    one, two = (load(str(tmp_path / n / "last.json")).network for n in ("one", "two"))
    counts = [int(b) for n in (one, two) for k, b in n.named_buffers() if "num_batches" in k]
    assert set(counts) == {2 * (len(TRAINING) // 16)}  # one a step
    assert furthest(weights(one), weights(two)) < 1e-5
    begun = networks.network(TINY).float()
    assert furthest(weights(one), weights(begun)) > 1e-2
    for mine, theirs in zip(scores(tmp_path / "one"), scores(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
