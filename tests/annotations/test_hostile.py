"""Annotation files that would take minutes or gigabytes are refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from slidescan.annotations import reading
from slidescan.annotations.reading import load_annotations
from slidescan.errors import AnnotationError


def outline(path: Path, vertices: np.ndarray) -> Path:
    region = {"name": "L", "vertices": vertices.tolist()}
    path.write_text(json.dumps({"positive": [region], "negative": []}))
    return path


def scribble(count: int) -> np.ndarray:
    return np.random.default_rng(count).uniform(0, 1000, (count, 2))


def test_a_scribble_is_refused_and_a_careless_outline_repaired(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"s.json: L: crosses itself more than 20,000 times"):
        load_annotations(outline(tmp_path / "s.json", scribble(1500)))
    found = load_annotations(outline(tmp_path / "careless.json", scribble(60)))
    assert "repaired" in found.problems[0]


def test_the_limit_counts_crossings_not_vertices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    circle = np.stack([500 + 400 * np.cos(angle), 500 + 400 * np.sin(angle)], axis=1)
    circle[[100, 110]] = circle[[110, 100]]
    monkeypatch.setattr(reading, "MOST_CROSSINGS", 10)
    load_annotations(outline(tmp_path / "a.json", circle))
    circle[200:1200:10], circle[205:1205:10] = (
        circle[205:1205:10].copy(),
        circle[200:1200:10].copy(),
    )
    with pytest.raises(AnnotationError, match="crosses itself more than 10 times"):
        load_annotations(outline(tmp_path / "b.json", circle))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"positive": [{"vertices": [[' + "9" * 5000 + ", 1]]}]}", "a number is too long"),
        ("[" * 100_000, "nested too deep"),
        ('{"type": "' + "x" * 100_000 + '"}', "neither NCRF's"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><ASAP_Annotations/>", "has a DTD"),
    ],
)
def test_bombs_are_one_short_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(AnnotationError) as told:
        load_annotations(path)
    assert words in str(told.value)
    assert len(str(told.value)) < 1000


def test_pipes_devices_and_sparse_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(20 * 2**30)
    for name, words in (
        ("pipe.json", "a pipe or a device"),
        ("zero.json", "a pipe or a device"),
        ("sparse.json", "21,474,836,480 bytes"),
    ):
        with pytest.raises(AnnotationError, match=words):
            load_annotations(tmp_path / name)
