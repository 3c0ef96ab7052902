"""Studies of trainings: train the rows (resumable), evaluate them, draw tables and pictures."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from slidescan_train.recipe.config import TrainConfig, load_config
from slidescan_train.runs.files import LAST
from slidescan_train.runs.run import Request, run

from benchmarks.support.reports import about, keep
from slidescan.commands.terminal import plain_bar, warn
from slidescan.engines.backend import Backend
from slidescan.engines.ensemble import Ensemble
from slidescan.errors import SlidescanError
from slidescan.patches.labelled import Data, Patches, load_data
from slidescan.pictures import style
from slidescan.statistics.arrays import Counts, Floats
from slidescan.statistics.bootstrap import Interval, bootstrap
from slidescan.statistics.metrics import Evaluation, OperatingPoints, names
from slidescan.tools.atomic_files import check_folder, replacing, writing
from slidescan.tools.hardware import cores

Scores = NDArray[np.float32]
"""P(tumour) of N patches by each of S seeds, (S, N)."""


METRICS = {"roc_auc": "AUC", "nll": "NLL", "accuracy": "accuracy", "ece": "ECE"}
PLACES = [list(names(OperatingPoints())).index(key) for key in METRICS]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of all trainings of a study."""

    data: Path
    cache: Path | None
    config: Path | None
    changes: tuple[str, ...]
    out: Path
    device: str
    threads: int | None

    def settings(self, *changes: str) -> TrainConfig:
        return load_config(self.config, (*self.changes, *changes))

    def load(self, ids: Path | None) -> Data:
        return load_data(
            self.data,
            validation=self.settings().validation,
            only=ids,
            cache=self.cache,
            progress=plain_bar,
            say=lambda line: click.echo(line, err=True),
        )

    def train(
        self, name: str, ids: Path | None, changes: Sequence[str], teachers: Sequence[str] = ()
    ) -> tuple[Path, float]:
        """Train, or resume; the weights of the last epoch and the minutes of the training.

        Raises `ConfigError` if the folder holds another run.
        """
        runs = self.out / "runs"
        with writing(runs):
            runs.mkdir(exist_ok=True)
        out = runs / name
        click.echo(f"{out}", err=True)
        request = Request(
            [self.data], out, ids=ids, cache=self.cache, teachers=teachers, resume=True,
            device=self.device, threads=self.threads,
        )  # fmt: skip
        command = self._command(out, ids, changes, teachers)
        # A run prints its epochs to stdout, which is for the study's table.
        with redirect_stdout(sys.stderr), _told(command):
            history = run(self.settings(*changes), request, warn)
        return out / LAST, sum(epoch.seconds for epoch in history) / 60

    def _command(
        self, out: Path, ids: Path | None, changes: Sequence[str], teachers: Sequence[str]
    ) -> list[str]:
        options = {"data": self.data, "ids": ids, "config": self.config}
        given = [(f"--{key}", str(value)) for key, value in options.items() if value]
        given += [("--teacher", teacher) for teacher in teachers]
        given += [("--set", change) for change in (*self.changes, *changes)]
        return ["train", *(word for pair in given for word in pair), "--out", str(out)]

    def predict(self, weights: str | Path, patches: Patches, d4: bool = False) -> Scores:
        """Score patches as `slidescan predict --engine torch` does: P(tumour), (N,)."""
        ensemble = Ensemble.load([str(weights)], "d4" if d4 else None)
        threads = self.threads or cores()
        engine = ensemble.engine(Backend("torch", where(self.device).type, "fp32", threads))
        return in_batches(lambda pixels: engine(pixels)[:, 0, 0], patches)

    def record(self) -> dict[str, Any]:
        """Settings, versions, machine and date, for the result."""
        return {
            "config": self.config.stem if self.config else "pcam",
            "changes": list(self.changes),
            "torch": torch.__version__,
            "device": where(self.device).type,
            **about(),
        }


@contextmanager
def _told(arguments: Sequence[str]) -> Iterator[None]:
    """Set `sys.argv`, which a run writes into its cards, to the command that repeats the run."""
    before, sys.argv = sys.argv, ["slidescan", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def where(device: str) -> torch.device:
    """The device; auto as in training."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def in_batches(
    infer: Callable[[NDArray[np.uint8]], Scores], patches: Patches, batch: int = 64
) -> Scores:
    starts = range(0, len(patches), batch)
    return np.concatenate([infer(patches.pixels(slice(i, i + batch))) for i in starts])


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every study."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--threads", type=click.IntRange(1), help="[default: all]"),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto"),
        click.option("--out", type=path, required=True, help="Folder of the study."),
        click.option(
            "--set", "changes", multiple=True, metavar="KEY=VALUE", help="A setting for every row."
        ),
        click.option("--config", type=path, help="The recipe. [default: pcam.yaml's]"),
        click.option("--cache", type=path, help="Folder for packed patches. [default: in DATA]"),
        click.option("--ids", type=path, help="File with the ids to use."),
        click.option("--data", type=path, required=True, help="Patches, as for slidescan train."),
    ):
        command = option(command)
    return command


@contextmanager
def one_line(out: Path) -> Iterator[None]:
    """Create the folder `out`; print errors, and an interruption, as one line."""
    try:
        check_folder(out)
        with writing(out):
            out.mkdir(exist_ok=True)
        yield
    except SlidescanError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt as error:
        raise click.ClickException("interrupted; the same command resumes") from error


# --- evaluation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """Metrics of a row's networks, by the keys of `METRICS`."""

    text: str
    seeds: Mapping[str, list[float]]
    """The value of each seed."""
    mean: Mapping[str, Interval]
    """The mean over the seeds."""
    difference: Mapping[str, Interval] | None
    """The difference from the row that it is compared with, if any."""


def _means(labels: NDArray[np.int64], scores: Scores) -> Callable[[Counts], Floats]:
    seeds = [Evaluation(labels, p.astype(np.float64)) for p in scores]
    return lambda counts: np.mean([seed.values(counts)[PLACES] for seed in seeds], axis=0)


def judge(
    text: str, labels: NDArray[np.int64], scores: Scores, base: Scores | None = None
) -> Judged:
    """Compute the metrics of each seed, their mean, and its difference from the mean of `base`.

    Both intervals resample the patches, the same ones on both sides of the difference.
    """
    own, count = _means(labels, scores), len(labels)
    once = np.array([_means(labels, p[None])(np.ones(count, np.int64)) for p in scores])
    difference = None
    if base is not None:
        other = _means(labels, base)
        difference = _named(bootstrap(lambda counts: own(counts) - other(counts), count))
    seeds = dict(zip(METRICS, once.T.tolist(), strict=True))
    return Judged(text, seeds, _named(bootstrap(own, count)), difference)


def _named(found: Sequence[Interval]) -> dict[str, Interval]:
    return dict(zip(METRICS, found, strict=True))


def number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.4f}"


def spread(found: Judged, metric: str = "roc_auc") -> str:
    """Format the mean over the seeds and, for several, the lowest and the highest."""
    values = found.seeds[metric]
    ends = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
    return number(found.mean[metric].value) + ends


def against(found: Judged, metric: str = "roc_auc") -> str:
    """Format the difference and its interval."""
    if not found.difference:
        return ""
    d = found.difference[metric]
    return f"{number(d.value, '+')} ({number(d.low, '+')} to {number(d.high, '+')})"


def draw(path: Path, title: str, than: str, rows: Sequence[Judged]) -> None:
    """Write a PNG: the AUC of each row and seed, and its difference from `than`, with intervals."""
    drawn, (left, right) = style.figure(1, 2, title)
    drawn.set_size_inches(10.4, 1.5 + 0.34 * len(rows))
    style.name(left, "AUC; small: each seed", "AUC, 95 % interval", "")
    style.name(right, f"Difference to {than}", "difference of AUC, 95 % interval", "")
    right.axvline(0, color=style.GREY, linewidth=1)
    for place, row in enumerate(rows):
        seeds = row.seeds["roc_auc"]
        left.plot(seeds, [place] * len(seeds), "o", color=style.SKY, markersize=3, zorder=3)
        _dot(left, row.mean["roc_auc"], place, style.BLUE)
        if row.difference:
            _dot(right, row.difference["roc_auc"], place, style.ORANGE)
    for panel in left, right:
        panel.set_ylim(len(rows) - 0.5, -0.5)
    left.set_yticks(range(len(rows)), [row.text for row in rows])
    right.set_yticks(range(len(rows)), [""] * len(rows))
    style.save(path, drawn)


def _dot(panel: Any, found: Interval, place: int, colour: str) -> None:
    if math.isnan(found.value):
        return
    # A percentile interval need not contain the value.
    ends = [max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]
    bars = None if math.isnan(found.low) else ends
    panel.errorbar([found.value], [place], xerr=bars, fmt="o", color=colour, capsize=3)


def finish(out: Path, name: str, text: str, result: Mapping[str, Any]) -> None:
    """Write text and result, and print the text."""
    with replacing(out / f"{name}.md") as beside:
        beside.write_text(f"{text}\n")
    keep(out / f"{name}.json", result)
    click.echo(text)
    click.echo(f"{out}/{name}.md and .json: written", err=True)


def counted(patches: Patches) -> dict[str, int]:
    return {"patches": len(patches), "tumour": int(patches.labels.sum())}
