"""Compiled graphs on disk: what is damaged or stale is built again, and a scan needs no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import patches
import pytest
from commands import ran

from slidescan.engines import graph_cache
from slidescan.engines.backend import Backend
from slidescan.engines.ensemble import Ensemble
from slidescan.engines.graph_cache import SUFFIX, GraphCache, user_folder
from slidescan.engines.openvino import compiling, graph_key
from slidescan.errors import WriteError
from slidescan.maps.store import Heatmap
from slidescan.models.card import Card, read_card
from slidescan.networks.logit_map import LogitMap

KEY = {"weights": "0123"}
GRAPH = bytes(range(256)) * 8


def entries(folder: Path) -> list[Path]:
    """All files, hidden ones as well."""
    return sorted(folder.iterdir())


def never() -> bytes:
    raise AssertionError("built although it is there")


# --- entries ----------------------------------------------------------------------------------


def test_a_graph_is_built_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert not GraphCache(folder).has(KEY)
    assert GraphCache(folder).get(KEY, lambda: GRAPH) == GRAPH
    assert GraphCache(folder).has(KEY)
    assert GraphCache(folder).get(KEY, never) == GRAPH
    (entry,) = entries(folder)
    assert entry.suffix == SUFFIX
    other = GraphCache(folder).get({"weights": "4567"}, lambda: GRAPH[::-1])
    assert other == GRAPH[::-1]
    assert len(entries(folder)) == 2


def test_without_a_folder_it_is_kept_in_memory() -> None:
    cache = GraphCache(None)
    assert cache.get(KEY, lambda: GRAPH) == GRAPH
    assert cache.get(KEY, never) == GRAPH
    assert not GraphCache(None).has(KEY)


def emptied(entry: Path) -> None:
    entry.write_bytes(b"")


def truncated(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-1])


def one_bit(entry: Path) -> None:
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content)


def of_another_key(entry: Path) -> None:
    GraphCache(entry.parent).get({"weights": "other"}, lambda: GRAPH[::-1])
    (other,) = set(entries(entry.parent)) - {entry}
    other.replace(entry)


@pytest.mark.parametrize("damage", [emptied, truncated, one_bit, of_another_key])
def test_a_damaged_entry_is_built_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    GraphCache(tmp_path).get(KEY, lambda: GRAPH)
    (entry,) = entries(tmp_path)
    damage(entry)
    assert not GraphCache(tmp_path).has(KEY)
    assert GraphCache(tmp_path).get(KEY, lambda: GRAPH) == GRAPH
    assert GraphCache(tmp_path).get(KEY, never) == GRAPH
    assert entries(tmp_path) == [entry]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = GraphCache(tmp_path / "file" / "graphs")
    assert cache.get(KEY, lambda: GRAPH) == GRAPH
    assert cache.get(KEY, never) == GRAPH


@pytest.mark.parametrize("error", [OSError("read-only"), WriteError("disk full")])
def test_a_folder_that_cannot_be_written_is_no_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise error

    monkeypatch.setattr(graph_cache, "replacing", refuse)
    assert GraphCache(tmp_path).get(KEY, lambda: GRAPH) == GRAPH
    assert entries(tmp_path) == []


def test_a_read_only_entry_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GraphCache(tmp_path).get(KEY, lambda: GRAPH)

    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refuse)
    assert GraphCache(tmp_path).get(KEY, never) == GRAPH


def test_the_entries_unused_for_longest_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(GRAPH) + 32
    monkeypatch.setattr(graph_cache, "KEPT_BYTES", 3 * size)
    (tmp_path / f".left-by-a-killed-process{SUFFIX}").write_bytes(GRAPH)
    os.utime(tmp_path / f".left-by-a-killed-process{SUFFIX}", (0, 0))
    (tmp_path / "of-somebody-else.txt").write_bytes(GRAPH * 9)
    for age in (3, 2, 1):
        before = set(entries(tmp_path))
        GraphCache(tmp_path).get({"age": age}, lambda: GRAPH)
        (entry,) = set(entries(tmp_path)) - before
        os.utime(entry, (1e9 - age, 1e9 - age))
    GraphCache(tmp_path).get({"age": 3}, never)  # used again
    GraphCache(tmp_path).get({"age": 0}, lambda: GRAPH)
    assert [GraphCache(tmp_path).has({"age": age}) for age in (3, 2, 1, 0)] == [
        True, False, True, True
    ]  # fmt: skip
    assert {path.suffix for path in entries(tmp_path)} == {SUFFIX, ".txt"}
    assert len(entries(tmp_path)) == 4


def test_a_user_without_a_home_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_folder() is not None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for an unknown user
    assert user_folder() is None


# --- keys -------------------------------------------------------------------------------------


def changed(card: Card, **changes: object) -> Card:
    return card.model_copy(update=changes)


def _another_version(of: str, package: str) -> str:
    return "0.0.0" if package == of else version(package)


def test_all_that_changes_a_graph_changes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    card = read_card("default")
    wider = changed(card.plan, mean=(0.5, 0.5, 0.5))  # type: ignore[type-var]
    calibrated = LogitMap(temperature=1.5)
    key = graph_key.graph_key(card, "fp32", 8)
    assert key == graph_key.graph_key(changed(card, name="renamed", mpp=0.5), "fp32", 8)
    others = [
        graph_key.graph_key(changed(card, weights_sha256="0" * 64), "fp32", 8),
        graph_key.graph_key(changed(card, plan=wider), "fp32", 8),
        graph_key.graph_key(changed(card, calibration=calibrated), "fp32", 8),
        graph_key.graph_key(changed(card, stride_px=16), "fp32", 8),
        graph_key.graph_key(card, "bf16", 8),
        graph_key.graph_key(card, "int8+fp32", 8),
        graph_key.graph_key(card, "fp32", 4),
    ]
    for name, value in (
        ("slidescan.engines.openvino.graph_key.processor", lambda: ("another", ["FP32"])),
        ("slidescan.engines.openvino.graph_key.instruction_sets", lambda: "none"),
        ("slidescan.engines.openvino.graph_key.kernel_limit", lambda: "AVX2"),
        ("slidescan.engines.openvino.graph_key.CODE", ("geometry.py",)),
        ("slidescan.engines.openvino.graph_key.version", partial(_another_version, "slidescan")),
        ("slidescan.engines.openvino.graph_key.version", partial(_another_version, "torch")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            graph_key._environment.cache_clear()
            others.append(graph_key.graph_key(card, "fp32", 8))
    graph_key._environment.cache_clear()
    assert graph_key.graph_key(card, "fp32", 8) == key
    names = {graph_cache._name(each) for each in (key, *others)}
    assert len(names) == 1 + len(others)


# --- engines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "int8+fp32"])
@pytest.mark.parametrize("stride", [8, 4, 16])
def test_a_cached_graph_gives_the_same_numbers_to_the_bit(
    precision: Any, stride: int, tmp_path: Path
) -> None:
    backend = Backend("openvino", "cpu", precision, 1)
    models = Ensemble.load(["fast"]).models
    pixels = np.random.default_rng(0).integers(0, 256, (1, 150, 170, 3), np.uint8)
    first, second, third = (
        Ensemble(models, graphs=GraphCache(folder)).engine(backend, stride)(pixels)
        for folder in (tmp_path, tmp_path, None)
    )
    assert len(entries(tmp_path)) == 1
    assert first.std() > 0
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


# --- commands ---------------------------------------------------------------------------------

RUN = """
import sys
from slidescan.cli import main
while "then" in sys.argv:
    at = sys.argv.index("then")
    main(sys.argv[1:at], standalone_mode=False)
    del sys.argv[1:at + 1]
print(*(name for name in ("torch", "skimage") if name in sys.modules))
"""


class Study:
    """A slide and patches, which commands scan, verify and predict."""

    def __init__(self, folder: Path, slide: Path, model: Path) -> None:
        self.folder, self.slide = folder, slide
        self.patches = patches.write(folder / "data", patches.make(7)) / "train"
        self.how = ("--model", model, "--threads", 2, "--device", "cpu")

    def commands(self, name: str, *options: str) -> list[tuple[object, ...]]:
        (self.folder / name).mkdir()
        out, table = self.folder / name / "map.zarr", self.folder / name / "scores.csv"
        how = (*self.how, *options)
        return [
            ("heatmap", self.slide, "--out", out, *how),
            ("verify", self.slide, out, *how, "--cells", 20),
            ("predict", self.patches, "--out", table, *how),
        ]

    def imported(self, name: str) -> list[str]:
        """Run them in one process of its own; the heavy libraries that it imported."""
        arguments = [str(a) for c in self.commands(name) for a in (*c, "then")]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", RUN, *arguments], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout.splitlines()[-1].split()

    def results(self, name: str) -> tuple[bytes, bytes]:
        heatmap = Heatmap.open(self.folder / name / "map.zarr")
        table = self.folder / name / "scores.csv"
        return heatmap.read(heatmap.grid.cells).tobytes(), table.read_bytes()


@pytest.fixture
def study(tmp_path: Path, section: Path, tiny_model: Path) -> Study:
    return Study(tmp_path, section, tiny_model)


def test_a_warm_cache_does_without_torch(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(study.folder / "cache"))
    assert study.imported("cold") == ["torch"]
    assert len(entries(study.folder / "cache" / "slidescan" / "graphs")) == 1
    assert study.imported("warm") == []
    assert study.results("warm") == study.results("cold")


def test_without_a_cache_the_numbers_are_the_same(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(study.folder / "cache"))
    for command in study.commands("none", "--no-cache"):
        ran(*command)
    assert not (study.folder / "cache").exists()
    for name in "cold", "warm":
        for command in study.commands(name):
            ran(*command)
    assert (study.folder / "cache").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    for command in study.commands("no folder"):
        ran(*command)
    assert {study.results(name) for name in ("none", "cold", "warm", "no folder")} == {
        study.results("none")
    }


@pytest.mark.slow
def test_processes_may_build_the_same_graph_at_once(
    section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    command = ("heatmap", section, "--model", tiny_model, "--threads", 1, "--device", "cpu")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "slidescan", *map(str, command), "--out", tmp_path / name],
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one.zarr", "two.zarr")
    ]
    for process in running:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    assert len(entries(cache / "slidescan" / "graphs")) == 1
    one, two = (Heatmap.open(tmp_path / name) for name in ("one.zarr", "two.zarr"))
    np.testing.assert_array_equal(one.read(one.grid.cells), two.read(two.grid.cells))


def test_engines_of_one_process_share_a_graph(
    section: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    compiled = compiling.compiled

    def counted(network: Any, precision: str) -> bytes:
        built.append(precision)
        return compiled(network, precision)

    monkeypatch.setattr(compiling, "compiled", counted)
    command = ("heatmap", section, "--model", tiny_model, "--no-cache", "--device", "cpu")
    ran(*command, "--threads", 3, "--out", tmp_path / "map.zarr")
    assert built == ["fp32"]
