"""What `heatmap` and `status` print of many slides, and what they plan without writing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import slides
from commands import ran, refused, run
from maps import TORCH, nothing_whole

from slidescan.scanning import estimate
from slidescan.tools.leases import Leases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides")
    for number in range(2):
        slides.write_slide(path / f"s{number}.tif", slides.section(150, 170, number), mpp=0.972)
    (path / "bad.svs").write_text("no slide")
    return path


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_of_json_for_each_slide(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    command = ("heatmap", folder, "--out", out, "--model", tiny_model, *TORCH)
    result = run(*command, "--log-format", "json")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1  # the error that ends the command
    found = {str(each["state"]): each for each in objects(result.stdout)}
    assert set(found) == {"failed", "done"}
    assert found["failed"]["slide"] == str(folder / "bad.svs")
    assert str(found["failed"]["reason"]).startswith("not a slide")
    done = found["done"]
    assert done["map"] == str(out / Path(str(done["slide"])).with_suffix(".zarr").name)
    assert float(str(done["megapixels"])) > 0
    assert float(str(done["seconds"])) > 0
    again = objects(run(*command, "--log-format", "json").stdout)
    assert [each["state"] for each in again].count("kept") == 2


def test_a_single_slide_as_json(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.zarr"
    tail = ("--out", out, "--model", tiny_model, *TORCH, "--log-format", "json")
    (done,) = objects(ran("heatmap", folder / "s0.tif", *tail).stdout)
    assert (done["state"], done["map"]) == ("done", str(out))
    (kept,) = objects(ran("heatmap", folder / "s0.tif", *tail).stdout)
    assert kept["state"] == "kept"
    result = run("heatmap", folder / "bad.svs", *tail)
    refused(result, "not a slide")
    (failed,) = objects(result.stdout)
    assert failed["state"] == "failed"


def test_quiet_prints_warnings_and_errors_only(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    glass = tmp_path / "glass.tif"
    slides.write_slide(glass, slides.section(96, 96)[:1, :1].repeat(96, 0).repeat(96, 1), mpp=0.972)
    tail = ("--model", tiny_model, *TORCH, "--quiet", "--out")
    result = ran("heatmap", folder / "s0.tif", glass, *tail, tmp_path / "maps")
    assert result.stdout == ""
    assert result.stderr.startswith(f"Warning: {glass}: no tissue found")
    assert ran("heatmap", folder / "s0.tif", *tail, tmp_path / "map.zarr").stdout == ""


def test_a_dry_run_writes_nothing(
    folder: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "MEASURED_TILES", 1)
    out = tmp_path / "maps"
    command = ("heatmap", folder, "--out", out, "--model", tiny_model, *TORCH)
    result = run(*command, "--dry-run")
    assert result.exit_code == 1
    assert "bad.svs: not a slide" in result.stderr
    assert "1 of 3 slides cannot be scanned" in result.stderr
    header, first, _, total = result.stdout.splitlines()
    assert header.split()[:2] == ["map", "state"]
    assert first.split()[:2] == ["s0.zarr", "waiting"]
    assert total.startswith("3 slides")
    assert not out.exists()

    ran("heatmap", folder / "s0.tif", "--out", out, "--model", tiny_model, *TORCH)
    before = sorted(out.rglob("*"))
    planned = objects(run(*command, "--dry-run", "--log-format", "json").stdout)
    assert [each["state"] for each in planned] == ["failed", "done", "waiting"]
    scanned = objects(run(*command, "--log-format", "json").stdout)
    assert planned[2]["megapixels"] == pytest.approx(scanned[2]["megapixels"], abs=0.05)
    assert sorted(out.rglob("*")) != before
    single = ran(
        "heatmap", folder / "s0.tif", "--out", tmp_path / "map.zarr", *command[4:], "--dry-run"
    )
    assert "map.zarr" in single.stdout
    nothing_whole(tmp_path / "map.zarr")


def test_status(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    mine = Path(shutil.copytree(folder, tmp_path / "slides"))
    run("heatmap", mine, mine / "gone.svs", "--out", out, "--model", tiny_model, *TORCH)
    with Leases(out / ".slidescan") as leases:
        assert leases.claim("bad.zarr")
        lines = ran("status", out).stdout.splitlines()
        assert lines[0] == f"{out}: 4 slides, 2 done, 1 scanning, 1 missing"
        assert "mm2 of tissue" in lines[1]
        assert any(line.startswith("scanning: bad.zarr") for line in lines)
    shutil.rmtree(out / "s0.zarr")
    (mine / "s1.tif").unlink()
    text = ran("status", out).stdout
    assert f"failed: bad.zarr ({mine / 'bad.svs'}): not a slide" in text
    assert "s0.zarr: done, but the map is gone" in text
    assert f"s1.zarr: done, but {mine / 's1.tif'} is no longer there" in text
    done = objects(ran("status", out, "--state", "done", "--log-format", "json").stdout)
    assert [each["map"] for each in done] == ["s0.zarr", "s1.zarr"]
    refused(run("status", tmp_path / "slides"), "has no manifest.csv")
    refused(run("status", tmp_path / "map"), "did you mean", "maps")


def test_a_folder_without_slides_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    tail = ("--out", tmp_path / "maps", "--model", tiny_model)
    (tmp_path / "empty").mkdir()
    refused(run("heatmap", tmp_path / "empty", *tail), "holds no slides", ".svs")
    refused(run("heatmap", tmp_path / "*.svs", *tail), "no file matches")
    assert not (tmp_path / "maps").exists()
