"""What the machine has, without torch where torch has nothing to say."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from slidescan.tools import hardware


@pytest.mark.parametrize(
    ("build", "driver", "asked"),
    [
        ("2.13.0+cpu", True, False),
        ("2.13.0+cu130", False, False),
        ("2.13.0", False, False),
        ("2.13.0+cu130", True, True),
        ("2.13.0", True, True),
        ("2.13.0+rocm7.1", False, True),
    ],
)
def test_torch_is_asked_only_where_there_may_be_a_gpu(
    build: str, driver: bool, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "version", lambda package: build)
    monkeypatch.setattr(hardware, "_has_nvidia_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert hardware.cuda_devices() == (3 if asked else 0)


def test_without_torch_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(hardware, "version", missing)
    assert hardware.cuda_devices() == 0


def test_cuda_devices_are_those_of_torch() -> None:
    assert hardware.cuda_devices() == torch.cuda.device_count()


def test_instruction_sets_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu sse avx2\nprocessor\t: 1\nflags\t\t: other\n")
    monkeypatch.setattr(hardware, "CPU_INFO", info)
    assert hardware.instruction_sets() == "fpu sse avx2"
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "none")
    assert hardware.instruction_sets().strip()
    assert "\n" not in hardware.instruction_sets()
