"""Commands, options and files by the right names, and what a wrong one is answered with."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import slides
from commands import ran, refused, run

from slidescan.cli import COMMANDS
from slidescan.commands import terminal
from slidescan.slides import properties

# --- help


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in COMMANDS), ("export", "png")], ids=" ".join
)
def test_help(command: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        result = ran(*command, flag)
        assert result.stdout.startswith("Usage: ")
        assert "--help" in result.stdout


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from click.testing import CliRunner
from slidescan.cli import main
for command in [], *([name] for name in {COMMANDS}), ["export", "png"]:
    assert CliRunner().invoke(main, [*command, "--help"]).exit_code == 0
heavy = "torch zarr openslide openvino numpy scipy skimage PIL pydantic albumentations".split()
print(*(name for name in heavy if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_version_and_unknown_words() -> None:
    assert ran("--version").stdout.startswith("slidescan")
    for wrong in (
        ["frobnicate"],
        ["heatmap"],
        ["heatmap", "a.svs"],
        ["heatmap", "a.svs", "--out", "b", "--engine", "abacus"],
        ["heatmap", "a.svs", "--out", "b", "--threads", "0"],
        ["verify", "a.svs", "b", "--cells", "0"],
    ):
        assert run(*wrong).exit_code == 2


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("haetmap slide.tif", "Did you mean heatmap?"),
        ("frobnicate", "There are heatmap, "),
        ("heatmap slide.tif --slide-mpp 0.25 --out map.zarr", "Did you mean --mpp?"),
        ("heatmap slide.tif --output map.zarr", "Did you mean --out?"),
        ("heatmap slide.tif --gpu --out map.zarr", "Did you mean --device cuda?"),
        ("heatmap slide.tif --strid 4 --out map.zarr", "Did you mean"),
        ("train --data pcam --epochs 3", "--set epochs=VALUE"),
        ("train --data pcam --lr 0.1", "--set learning_rate=VALUE"),
        ("train --data pcam --workers 2", "Did you mean --threads?"),
        ("verify slide.tif map.zarr --abacus", "No such option"),
    ],
)
def test_a_wrong_name_gets_the_right_one(wrong: str, hint: str) -> None:
    result = run(*wrong.split())
    assert result.exit_code == 2
    assert hint in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("verify {map} {slide}", "the two are swapped"),
        ("export png {slide} --slide {map} --out picture.png", "the two are swapped"),
        ("heatmap {map} --out again.zarr", "is a map, not a slide"),
        ("heatmap {slide} --out {folder}/map.png", "map.zarr; slidescan export png draws"),
        ("heatmap {slide} --out {folder}/map.tif", "a map is a zarr folder, not a .tif file"),
        ("heatmap {slide} --out memory://x/map.zarr", "is this command's own memory"),
        ("heatmap {slide} --out memory://x", "name a folder or a bucket"),
        ("heatmap {folder}/sectoin.tif --out again.zarr", "did you mean"),
        ("verify {slide} {folder}/mpa.zarr", "did you mean"),
        ("heatmap {slide} --out again.zarr --model bset", "did you mean best?"),
        ("heatmap {slide} --out again.zarr --model {folder}", "no best.json in this folder"),
        ("predict {folder}/labels.csv --out table.csv", "name the folder of its patches"),
    ],
)
def test_what_is_named_by_mistake(
    arguments: str, words: str, section: Path, scanned: Path, tmp_path: Path
) -> None:
    shutil.copy(section, tmp_path / "section.tif")
    shutil.copytree(scanned, tmp_path / "map.zarr")
    (tmp_path / "labels.csv").write_text("id,label\n")
    before = sorted(tmp_path.iterdir())
    given = {"slide": tmp_path / "section.tif", "map": tmp_path / "map.zarr", "folder": tmp_path}
    refused(run(*(word.format(**given) for word in arguments.split())), words)
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_slide_is_told_before_what_looks_wrong_with_it(
    scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.tif"
    slides.write_slide(other, slides.section(300, 300, seed=1), mpp=None)
    monkeypatch.setattr(properties, "find_warnings", lambda *_, **__: ("something looks wrong",))
    refused(run("verify", other, scanned), "another slide", other)


def test_a_mistyped_path_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = """
import sys
from click.testing import CliRunner
from slidescan.cli import main
for line in sys.argv[1:]:
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 1 and "no such file" in result.output, result.output
heavy = "torch zarr openslide openvino numpy scipy skimage PIL pydantic".split()
print(*(name for name in heavy if name in sys.modules))
"""
    lines = (
        "heatmap no.tif --out no.zarr",
        "verify no.tif no.zarr",
        "export png no.zarr --slide no.tif --out no.png",
        "predict no --out no.csv",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *lines], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# --- progress


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_of_pixels_is_shown_in_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Totals and steps are whole numbers, so it ends at its total; warnings are errors here."""
    monkeypatch.setattr(sys, "stderr", stderr := Tty())
    with terminal.bar("scanning", 1_623_040, "px") as bar:
        for _ in range(16):
            bar.update(1_623_040 // 16)
    last = stderr.getvalue().split("\r")[-1]
    assert last.startswith("scanning: 100%|")
    assert "| 1.62/1.62 Mpx [" in last
    assert "Mpx/s]" in last
    with terminal.bar("verifying", 3, "cell") as bar:
        bar.update(3)
    assert "| 3/3 cell [" in stderr.getvalue().split("\r")[-1]
