"""Commands with addresses: one line for each error, resumed, and no secret in what is written."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ran, refused, run
from s3 import SECRET, Proxy, Request

import slidescan
from slidescan.maps.store import Heatmap
from slidescan.scanning.cohort import LEASES
from slidescan.tools.leases import holders
from slidescan.tools.objects.leases import ObjectLeases
from slidescan.tools.objects.store import bucket_of
from slidescan.tools.urls import Url, place_of


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    monkeypatch.setenv("SLIDESCAN_SLIDE_CACHE", str(tmp_path / "cache"))


def url_of(text: str) -> Url:
    url = place_of(text)
    assert isinstance(url, Url)
    return url


def upload(address: str, file: Path) -> str:
    url = url_of(address)
    bucket_of(url).put(url.path, file.read_bytes())
    return address


def content(address: str) -> dict[str, bytes]:
    url = url_of(address)
    bucket = bucket_of(url)
    found = ((entry.key, bucket.get(entry.key)) for entry in bucket.objects(url.path))
    return {key: each[0] for key, each in found if each}


def rows(folder: str) -> list[dict[str, str]]:
    text = content(folder)[url_of(f"{folder}/manifest.csv").path].decode()
    return list(csv.DictReader(io.StringIO(text)))


def same(one: str | Path, other: str | Path) -> bool:
    values = [slidescan.open_map(each).values for each in (one, other)]
    return np.array_equal(*values, equal_nan=True)


def scan(slide: object, out: object, model: Path, *more: object) -> Any:
    return run("heatmap", slide, "--model", model, "--out", out, "--threads", 1, *more)


@pytest.mark.slow
def test_a_scan_that_fails_is_resumed_to_the_map_of_a_local_one(
    folder: str, s3: Proxy, section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    slide, out = upload(f"{folder}/in/section.tif", section), f"{folder}/map.zarr"
    shards: set[str] = set()

    def fails(request: Request) -> str | None:
        if request.method == "PUT" and "/map.zarr/0/c/" in request.path:
            shards.add(request.path)
        return "503" if len(shards) > 3 and request.writes else None

    s3.reset(fails)
    refused(scan(slide, out, tiny_model), "map.zarr", "503", "run the same command again")
    s3.reset()
    resumed = scan(slide, out, tiny_model)
    assert "resuming, 3 of" in resumed.output
    assert "complete already" in scan(slide, out, tiny_model).output
    ran("heatmap", section, "--model", tiny_model, "--out", tmp_path / "local.zarr")
    assert same(out, tmp_path / "local.zarr")
    ran("verify", slide, out, "--model", tiny_model, "--cells", 8)
    made = slidescan.open_map(out).provenance
    assert made["slide"] == "section.tif"
    assert made["source"]["url"] == slide
    assert not [key for key, each in content(folder).items() if SECRET.encode() in each]


@pytest.mark.slow
def test_a_batch_in_a_bucket(
    folder: str, s3: Proxy, section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    slides = [upload(f"{folder}/{name}/section.tif", section) for name in ("a", "b")]
    listed = tmp_path / "slides.csv"
    listed.write_text("slide,group\n" + "".join(f"{slide},g\n" for slide in slides))
    maps = f"{folder}/maps"
    done = scan(listed, maps, tiny_model)
    assert done.exit_code == 0, done.output
    assert {(row["map"], row["state"], row["group"]) for row in rows(maps)} == {
        ("a-section.zarr", "done", "g"),
        ("b-section.zarr", "done", "g"),
    }
    s3.reset()
    assert "2 maps are complete already" in scan(listed, maps, tiny_model).output
    assert not any("section.tif" in each.path and each.method == "GET" for each in s3.requests)
    assert "2 slides, 2 done" in ran("status", maps).output
    assert not any(LEASES in key or "lock" in key for key in content(maps))
    assert not [key for key, each in content(folder).items() if SECRET.encode() in each]


@pytest.mark.slow
def test_slides_of_another_process_are_left_to_it(
    folder: str, section: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = f"{folder}/maps"
    monkeypatch.setattr(ObjectLeases, "wait", lambda self, names: list(names))
    leases = url_of(f"{maps}/{LEASES}")
    with ObjectLeases(leases) as held:
        assert held.claim("section.zarr")
        left = scan(section, maps, tiny_model)
        assert (left.exit_code, rows(maps)[0]["state"]) == (75, "waiting")
        assert holders(leases)["section.zarr"].pid == os.getpid()
        assert "1 scanning" in ran("status", maps).output
    assert scan(section, maps, tiny_model).exit_code == 0


@pytest.mark.slow
def test_a_slide_that_is_not_there_fails_alone(
    folder: str, section: Path, tiny_model: Path
) -> None:
    maps = f"{folder}/maps"
    result = run("heatmap", f"{folder}/no.svs", section, "--model", tiny_model, "--out", maps)
    assert result.exit_code == 1
    found = {row["map"]: (row["state"], row["reason"]) for row in rows(maps)}
    assert found["no.zarr"] == ("failed", "no such file; correct the address")
    assert found["section.zarr"][0] == "done"


@pytest.mark.slow
def test_two_processes_in_one_bucket_of_which_one_is_killed(
    folder: str, s3: Proxy, section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    maps = f"{folder}/maps"
    slides = [upload(f"{folder}/{i}.tif", section) for i in range(4)]
    command = [sys.executable, "-m", "slidescan", "heatmap", *slides, "--model", str(tiny_model)]
    command += ["--out", maps, "--threads", "1"]
    s3.reset(lambda request: "slow" if "/0/c/" in request.path else None)
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    while not any("/maps/" in each.path and "/0/c/" in each.path for each in s3.requests):
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    assert processes[1].wait(120) == 0
    s3.reset()
    assert [row["state"] for row in rows(maps)] == ["done"] * 4
    ran("heatmap", section, "--model", tiny_model, "--out", tmp_path / "local.zarr")
    for i in range(4):
        assert same(f"{maps}/{i}.zarr", tmp_path / "local.zarr")


@pytest.mark.slow
def test_readers_take_addresses(
    folder: str, section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    slide, out = upload(f"{folder}/section.tif", section), f"{folder}/map.zarr"
    assert scan(slide, out, tiny_model).exit_code == 0
    ran("regions", out, "--threshold", 0.2)
    ran("export", "geojson", out, "--threshold", 0.2, "--out", tmp_path / "map.geojson")
    ran("export", "ome-tiff", out, "--out", tmp_path / "map.ome.tif")
    ran("export", "png", out, "--slide", slide, "--out", tmp_path / "map.png")
    ran("report", folder, "--slide", slide, "--out", tmp_path / "report.html")
    assert slidescan.scan(slide, out, model=tiny_model).shape == Heatmap.open(out).grid.shape


@pytest.mark.slow
def test_the_viewer_reads_a_map_in_a_bucket(folder: str, section: Path, tiny_model: Path) -> None:
    from slidescan.viewer.catalogue import Catalogue, sort_paths
    from slidescan.viewer.state import State

    out = f"{folder}/map.zarr"
    assert scan(section, out, tiny_model).exit_code == 0
    state = State(Catalogue(sort_paths([section, url_of(out)], (), None)))
    state.check()
    ((slide),) = state.catalogue.slides()
    tile = state.watched(slide.maps[0]).tile(0, 0, 0)
    assert tile is not None
    assert np.nanmax(tile.values) == np.nanmax(slidescan.open_map(out).values)
    state.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("heatmap", "SLIDE", "--out", "s3://"), "names no bucket"),
        (("heatmap", "SLIDE", "--out", "https://host/map.zarr"), "takes no maps"),
        (("heatmap", "SLIDE", "--out", "s3://bucket/map.svs"), "s3://bucket/map.zarr"),
        (("heatmap", "SLIDE", "--view", "--out", "s3://bucket/map.zarr"), "--view"),
        (("heatmap", "SLIDE", "--model", "s3://b/m.safetensors", "--out", "m.zarr"), "--model"),
        (("heatmap", f"s3://k:{SECRET}@b/a.svs", "--out", "m.zarr"), "credentials"),
        (("predict", "s3://bucket/patches", "--out", "a.csv"), "of this machine"),
        (("export", "png", "MAP", "--layout", "map", "--out", "s3://b/a.png"), "of this machine"),
        (("evaluate", "slides", "MAP", "--annotations", "s3://b/xml"), "of this machine"),
    ],
)
def test_what_cannot_be_an_address_is_refused_in_one_line(
    arguments: tuple[str, ...], words: str, section: Path, s3: Proxy
) -> None:
    given = [str(section) if each == "SLIDE" else each for each in arguments]
    result = run(*given)
    refused(result, words)
    assert SECRET not in result.output
    assert s3.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        pytest.param(
            ("heatmap", "SLIDE", "--model", "MODEL", "--out", "OUT"), marks=pytest.mark.slow
        ),
    ],
    ids=["help", "scan"],
)
def test_what_needs_no_store_imports_nothing_that_reaches_one(
    arguments: tuple[str, ...], section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from slidescan.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "found = {'obstore', 'slidescan.tools.objects.store'} & set(sys.modules)\n"
        "assert not found, found"
    )
    given = {"SLIDE": str(section), "MODEL": str(tiny_model), "OUT": str(tmp_path / "map.zarr")}
    words = [given.get(each, each) for each in arguments]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
