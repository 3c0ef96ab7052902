"""Scan many slides from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

from slidescan.api.progress import Calls
from slidescan.api.scan import Source, chosen_options
from slidescan.errors import ConfigError
from slidescan.scanning.cohort import Outcome
from slidescan.scanning.enrolment import enrol, prepare_folder, selected
from slidescan.scanning.jobs import Batch, run_batch
from slidescan.scanning.listing import read_arguments
from slidescan.scanning.provenance import now
from slidescan.scanning.session import Session
from slidescan.tools.urls import AnyPlace, Place, Url, place_of


class ScanOptions(TypedDict, total=False):
    """The options of `slidescan.scan`."""

    tta: Literal["d4"] | None
    mode: Literal["dense", "patch"]
    stride: int | None
    slide_mpp: float | None
    engine: Literal["openvino", "torch"] | None
    device: str
    precision: Literal["fp32", "bf16", "fp16", "int8", "auto"]
    threads: int | None
    tissue_mask: bool
    overwrite: bool
    damaged: Literal["stop", "skip"]
    cache: bool


@dataclass(frozen=True, slots=True)
class SlideResult:
    """What became of one of many slides."""

    slide: Place
    map: Place
    """for `slidescan.open_map`, if the state is done or kept"""
    state: Literal["done", "kept", "failed", "missing", "busy"]
    """kept: the map was finished before. busy: another process is scanning the slide."""
    reason: str = ""
    """why it failed or is missing"""
    warnings: tuple[str, ...] = ()


def scan_many(
    slides: AnyPlace | Sequence[AnyPlace],
    out: AnyPlace,
    model: Source | Sequence[Source] = "default",
    *,
    jobs: int = 1,
    shard: tuple[int, int] = (1, 1),
    retry: Literal["failed", "missing", "waiting"] | None = None,
    on_slide: Callable[[SlideResult], object] | None = None,
    **options: Unpack[ScanOptions],
) -> list[SlideResult]:
    """Scan slides into a folder of maps; the same as `slidescan heatmap SLIDE... --out FOLDER`.

    A slide that fails does not stop the others: its result says why. The folder has manifest.csv.
    Several processes, on one machine or many, may scan into one folder.

    Args:
        slides: files, addresses such as "s3://bucket/slide.svs", folders, patterns such as
            "slides/**/*.svs", or lists (CSV with a column `slide`); one or several.
        out: the folder of the maps; it may be in an object store, e.g. "s3://bucket/maps".
        model: as in `slidescan.scan`.
        jobs: processes to scan with, which share the processors. They import the main module, so a
            script has to call this below `if __name__ == "__main__":`.
        shard: (i, n) scans the i-th of n parts of the slides, counted from 1.
        retry: scan only slides that are in this state in the manifest.
        on_slide: is called with the result of each slide as it ends, from the calling thread.
        options: those of `slidescan.scan`.

    Returns:
        A result for each slide, in their order.

    Raises:
        SlidescanError: no slides, no such part, a model that cannot be loaded, or a folder that
            cannot be written.
    """
    given = [slides] if isinstance(slides, str | os.PathLike | Url) else slides
    folder, since = place_of(out), now()
    places = [place_of(each) for each in given]
    call = f"slidescan.scan_many({[str(each) for each in places]!r}, {str(folder)!r})"
    if not 1 <= shard[0] <= shard[1]:
        raise ConfigError(f"shard={shard}: no part; (1, 4) to (4, 4) are the four parts of four")
    entries = read_arguments(places)
    session = Session(chosen_options(model, **options), Calls(None), call)
    prepare_folder(folder)
    tasks = selected(enrol(entries, folder), shard, retry)
    found: dict[str, SlideResult] = {}

    def keep(outcome: Outcome) -> None:
        result = _result(outcome, folder)
        found[outcome.task.map_name] = result
        if on_slide:
            on_slide(result)

    for task in run_batch(Batch(folder, tasks, since), session, jobs, keep):
        keep(Outcome(task, "busy"))
    return [found[task.map_name] for task in tasks]


def _result(outcome: Outcome, folder: Place) -> SlideResult:
    task = outcome.task
    return SlideResult(
        task.entry.slide, folder / task.map_name, outcome.state, outcome.reason, outcome.warnings
    )
