"""`slidescan doctor` tells what there is, and finds an engine that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from slidescan.cli import main
from slidescan.engines.backend import Backend
from slidescan.engines.ensemble import Ensemble
from slidescan.geometry import Box
from slidescan.scanning import selftest


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "SECONDS", 0.0)


def doctor(*arguments: object) -> Result:
    command = ["doctor", "--threads", "1", *map(str, arguments)]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def lines(result: Result) -> dict[str, str]:
    assert result.exit_code == 0, result.stderr
    return {line[:11].rstrip(): line[11:] for line in result.stdout.splitlines()}


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_it_tells_what_there_is_and_what_is_used(engine: str, tiny_model: Path) -> None:
    told = lines(doctor("--model", tiny_model, "--engine", engine, "--device", "cpu"))
    assert list(told)[:7] == [
        "system", "processor", "memory", "GPU", "packages", "OpenSlide", "used"
    ]  # fmt: skip
    assert "FP32" in told["processor"]
    assert "GiB" in told["memory"]
    assert "torch 2" in told["packages"]
    assert "missing" not in told["packages"]
    assert "4." in told["OpenSlide"]
    assert "MIRAX (.mrxs)" in told["OpenSlide"]
    assert told["used"] == f"{engine} on cpu in fp32, 1 threads; model tiny"
    assert float(told["speed"].split()[0]) >= 0
    assert "tolerance 1e-05" in told["exactness"]


def test_an_engine_that_is_wrong_fails_the_test(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slidescan.engines.openvino.engine import OpenVINOEngine

    right = OpenVINOEngine.__call__

    def wrong(self: OpenVINOEngine, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return right(self, pixels) + np.float32(1e-4)

    monkeypatch.setattr(OpenVINOEngine, "__call__", wrong)
    result = doctor("--model", tiny_model, "--engine", "openvino", "--device", "cpu")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "NOT right" in line
    assert "--engine torch" in line


def test_a_map_that_is_not_its_patches_fails_the_test(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slidescan.engines.torch_engine import TorchEngine

    right = TorchEngine.__call__

    def shifted(self: TorchEngine, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = right(self, pixels)
        return np.roll(scores, 1, axis=2) if scores.size > len(scores) else scores

    ensemble = Ensemble.load([str(tiny_model)])
    backend = Backend("torch", "cpu", "fp32", 1)
    assert selftest.examine(ensemble, backend).sound
    monkeypatch.setattr(TorchEngine, "__call__", shifted)
    found = selftest.examine(ensemble, backend)
    assert found.from_patches > found.tolerance
    assert not found.sound


def test_nan_is_not_sound() -> None:
    assert not selftest.Tested(1.0, float("nan"), 0.0, 1e-5).sound


def test_a_plane_of_noise_is_white_outside() -> None:
    plane = selftest.Noise(64)
    pixels = plane.read(Box(-2, -3, 66, 70))
    assert pixels.shape == (68, 73, 3)
    assert (pixels[2:66, 3:67] == plane.read(Box(0, 0, 64, 64))).all()
    assert pixels[2:66, 3:67].std() > 10
    assert (pixels[:2] == 255).all()
    assert (pixels[:, 67:] == 255).all()


def test_a_device_that_is_not_there_is_one_line(tiny_model: Path) -> None:
    result = doctor("--model", tiny_model, "--device", "gpu")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: --device gpu: not a device; use auto")
