"""A small evaluation of slides that several test modules use."""

from __future__ import annotations

from pathlib import Path

import pytest
from lesions import heatmap
from slide_study import SHAPE, annotate, write_map

from slidescan.evaluation import slide_level, slide_report

DRAW = slide_report.draw


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """maps/ and annotations/ of two tumour slides and two normal ones.

    tumor_1: lesions A, rows 20-59 and columns 20-59, found at 0.9; B, rows 70-109 and columns
    120-159, found at 0.6; isolated cells at rows 10-13 and columns 170-173, said 0.99; a false
    detection at 0.8. tumor_2: a lesion that is missed. normal_1: false at 0.7. normal_2: nothing.
    """
    # Small forests and no pictures, which take half of the time.
    monkeypatch.setattr(slide_level, "TREES", 20)
    monkeypatch.setattr(slide_report, "draw", lambda *_: None)
    maps, annotations = tmp_path / "maps", tmp_path / "annotations"
    maps.mkdir()
    annotations.mkdir()
    peaks = {(40, 40): 0.9, (90, 140): 0.6, (11, 171): 0.99, (110, 10): 0.8}
    write_map(maps / "tumor_1.zarr", heatmap(SHAPE, peaks))
    write_map(maps / "tumor_2.zarr", heatmap(SHAPE, {}))
    write_map(maps / "normal_1.zarr", heatmap(SHAPE, {(60, 100): 0.7}, base=0.05))
    write_map(maps / "normal_2.zarr", heatmap(SHAPE, {}, base=0.05))
    annotate(annotations / "tumor_1.json", (20, 20, 40, 40), (70, 120, 40, 40), (10, 170, 4, 4))
    annotate(annotations / "tumor_2.json", (20, 20, 40, 60))
    return tmp_path


@pytest.fixture
def drawn_study(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and evaluations of it draw their pictures."""
    monkeypatch.setattr(slide_report, "draw", DRAW)
    return study
