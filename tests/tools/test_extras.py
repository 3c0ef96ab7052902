"""The command that installs an extra."""

from __future__ import annotations

import shlex
import sys

import pytest

from slidescan.tools import extras


def test_it_names_the_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = ["click>=8.1", "h5py>=3.12; extra == 'train'", 'numpy>=2; extra == "train"']
    stated += ["no-such-library<2,>=1 ; extra == 'train'", "shapely; extra == 'evaluate'"]
    monkeypatch.setattr(extras, "requires", lambda name: stated)
    command = shlex.split(extras.install_command("train"))
    assert command == [sys.executable, "-m", "pip", "install", "no-such-library<2,>=1"]


@pytest.mark.parametrize("extra", ["train", "teacher", "evaluate"])
def test_each_extra_is_found(extra: str) -> None:
    assert len(shlex.split(extras.install_command(extra))) > 4
