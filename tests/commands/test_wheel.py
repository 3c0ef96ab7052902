"""The built wheel, installed into an environment of its own and run outside the checkout."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import patches
import pytest

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "configs" / "quick.yaml"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("needs npm, to build the viewer's page")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_the_weights(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "slidescan/cli.py",
        "slidescan/py.typed",
        "slidescan/models/weights/default.safetensors",
        "slidescan/models/weights/default.json",
        "slidescan_train/loop/training.py",
        "slidescan/report/templates/slide.html.j2",
        "slidescan/viewer/static/index.html",
        "slidescan/viewer/static/page.js",
        "slidescan/viewer/static/page.css",
    } <= names
    licences = zipfile.ZipFile(wheel).read("slidescan/viewer/static/licences.txt").decode()
    assert "openseadragon 6.1.1 (BSD-3-Clause)" in licences
    assert "Redistributions in binary form must reproduce" in licences
    assert not any("viewer/page/" in name for name in names)
    configs = {path.name for path in (ROOT / "configs").iterdir()}
    assert {f"slidescan_train/configs/{name}" for name in configs} <= names
    assert not any(name.startswith(("tests/", "train/", "demo/")) for name in names)
    assert wheel.stat().st_size < 25 * 2**20


@pytest.mark.slow
def test_two_builds_are_equal_and_hold_a_bill_of_materials(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()
    with zipfile.ZipFile(wheel) as file:
        (name,) = (each for each in file.namelist() if "/sboms/" in each)
        assert name.endswith(".dist-info/sboms/slidescan.cdx.json")
        bill = json.loads(file.read(name))
        weights = file.read("slidescan/models/weights/default.safetensors")
    parts = {each["name"]: each for each in bill["components"]}
    sha256 = {"alg": "SHA-256", "content": hashlib.sha256(weights).hexdigest()}
    assert parts["default.safetensors"]["hashes"] == [sha256]
    assert parts["torch"]["scope"] == "required"
    assert parts["albumentations"]["purl"] == "pkg:pypi/albumentations@2.0.8"
    assert parts["openseadragon"]["purl"].startswith("pkg:npm/openseadragon@")


@pytest.mark.slow
def test_a_wheel_without_the_page_is_not_built(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT],
        cwd=tmp_path,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert built.returncode != 0
    said = [
        line for line in (built.stdout + built.stderr).splitlines() if line.startswith("slidescan:")
    ]
    assert said == [
        "slidescan: the viewer's page needs npm (Node.js 20 or newer); install it, or do without "
        "slidescan view: pip install -e"
    ]
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.slow
def test_the_installed_wheel_scans(
    wheel: Path, tmp_path: Path, slide_folder: Path, section: Path
) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel, cwd=tmp_path)
    slidescan = tmp_path / "env" / "bin" / "slidescan"
    slide = slide_folder / "checkerboard.tif"
    run(slidescan, "heatmap", slide, "--out", "map.zarr", cwd=tmp_path)
    assert "tolerance 1e-05" in run(slidescan, "verify", slide, "map.zarr", cwd=tmp_path)
    where = run(python, "-c", "import slidescan; print(slidescan.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where
    assert run(slidescan, "configs", "quick", cwd=tmp_path) == QUICK.read_text()
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert example
    shutil.copy(section, tmp_path / "slide.tif")
    (tmp_path / "map.zarr").rename(tmp_path / "checkerboard.zarr")
    cell, patch, _ = run(python, "-c", example[1], cwd=tmp_path).splitlines()
    assert abs(float(cell) - float(patch)) <= 1e-5
    data = patches.write(tmp_path / "data", patches.make(2))
    missing = subprocess.run(
        [slidescan, "train", "--data", data], cwd=tmp_path, capture_output=True, text=True
    )
    assert missing.returncode == 1
    assert f"{python} -m pip install albumentations==2.0.8 " in missing.stderr
