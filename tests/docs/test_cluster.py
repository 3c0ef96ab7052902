"""The examples for clusters scan every slide, each job its own."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import slides
from maps import TORCH

EXAMPLES = Path(__file__).parents[2] / "docs" / "cluster"
COUNT = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="shell scripts"),
]


@pytest.fixture
def environment(tiny_model: Path, tmp_path: Path) -> dict[str, str]:
    """A folder slides/, and a `slidescan` on the path that scans with a small model."""
    (tmp_path / "slides").mkdir()
    for number in range(COUNT):
        path = tmp_path / "slides" / f"s{number}.tif"
        slides.write_slide(path, slides.section(120, 150, number), mpp=0.972)
    command = tmp_path / "bin" / "slidescan"
    command.parent.mkdir()
    run = shlex.join([sys.executable, "-m", "slidescan"])
    flags = shlex.join(["--model", str(tiny_model), *TORCH])
    command.write_text(f'#!/bin/sh\nexec {run} "$@" {flags}\n')
    command.chmod(0o755)
    source = str(EXAMPLES.parents[1])
    inherited = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": inherited}


def all_done(folder: Path) -> bool:
    with (folder / "maps" / "manifest.csv").open(newline="") as file:
        return Counter(row["state"] for row in csv.DictReader(file)) == {"done": COUNT}


def test_the_array_of_slurm(environment: dict[str, str], tmp_path: Path) -> None:
    tasks = [
        subprocess.Popen(
            ["bash", EXAMPLES / "array.sh", "slides", "maps"],
            cwd=tmp_path,
            env={**environment, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for task in (1, 2)
    ]
    assert [task.communicate()[0] for task in tasks] == ["", ""]
    assert [task.returncode for task in tasks] == [0, 0]
    assert all_done(tmp_path)


@pytest.mark.skipif(not shutil.which("snakemake"), reason="needs snakemake on the path")
def test_snakemake(environment: dict[str, str], tmp_path: Path) -> None:
    command = ("snakemake", "--snakefile", EXAMPLES / "Snakefile", "--cores", "2")
    config = ("--config", "slides=slides", "maps=maps", "shards=2")
    subprocess.run([*command, *config], cwd=tmp_path, env=environment, check=True)
    assert all_done(tmp_path)


@pytest.mark.skipif(not shutil.which("nextflow"), reason="needs nextflow on the path")
def test_nextflow(environment: dict[str, str], tmp_path: Path) -> None:
    command = ("nextflow", "run", EXAMPLES / "heatmap.nf", "--slides", "slides/*.tif")
    subprocess.run([*command, "--maps", "maps"], cwd=tmp_path, env=environment, check=True)
    assert len(list((tmp_path / "maps").glob("s*.zarr"))) == COUNT
