"""Accuracy against speed of plans that are trained by one recipe.

    python -m benchmarks.accuracy.architectures --data DIR [--ids FILE] [--teacher MODEL] \
        --out FOLDER

Each plan is a run in FOLDER (see docs/training.md); a study that was stopped resumes with the same
command. Speed is that of the network alone: OpenVINO on the CPU, one scan tile at a time. It is
measured before the first training, so nothing else should run then. A random split of patches is
not slide-disjoint: read differences, not absolute values. Needs the extra `train`.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from slidescan_train.recipe.config import TrainConfig, load_config
from slidescan_train.runs.run import Request, run

from benchmarks.support.reports import about, keep, markdown
from slidescan import engines
from slidescan.engines.backend import Backend
from slidescan.engines.build import make_engine
from slidescan.geometry import PATCH_PX
from slidescan.networks.network import Network
from slidescan.networks.plan import NasnetPlan, PlainPlan, Plan
from slidescan.pictures import style
from slidescan.scanning.pipeline import TILE_PX
from slidescan.tools.hardware import cores

Json = dict[str, Any]

EPOCHS, SPEEDS, RESULT = 6, "speeds.json", "architectures.json"


def layers(*shorthand: str) -> list[Json]:
    """Layers from their shorthand.

    "4/2 32" is a convolution of 4 x 4 at stride 2 with 32 filters, "2/2" a maximum pool.
    """
    made = []
    for text in shorthand:
        window, _, filters = text.partition(" ")
        kernel, _, stride = window.partition("/")
        made.append(
            {
                "kernel": int(kernel),
                "stride": int(stride or 1),
                "filters": int(filters) if filters else None,
            }
        )
    return made


def nasnet(stem: list[Json], cells: str, pool: str = "mean", grid: int = 1) -> Plan:
    """Make a NASNet plan from shorthands.

    "R 128, N 64" are a reduction and a normal cell; R2 and N2 have two separable convolutions.
    """
    kinds = {"R": "reduction", "N": "normal"}
    made = [part.split() for part in cells.split(", ")]
    return NasnetPlan.model_validate(
        {
            "stem": stem,
            "cells": [
                {"kind": kinds[k[0]], "filters": int(n), "separables": int(k[1:] or 1)}
                for k, n in made
            ],
            "head": {"pool": pool, "grid": grid},
        }
    )


def plain(stem: list[Json], pool: str = "mean", grid: int = 1) -> Plan:
    return PlainPlan.model_validate(
        {"arch": "plain", "layers": stem, "head": {"pool": pool, "grid": grid}}
    )


THIN = layers("4/2 32")
DENSE = layers("4/2 32", "3 64", "4/2 128", "3 128")
HALF = layers("4/2 16", "3 32", "4/2 64", "3 64")
LATE = layers("4/2 16", "3 32", "4/2 128", "3 128")

PLANS: dict[str, Plan] = {
    # Cells from the start, as in the published NASNet, at two widths.
    "cells alone, 32": nasnet(THIN, "R 32, N 32, N 32, R 32"),
    "cells alone, 64": nasnet(THIN, "R 64, N 64, N 64, R 64"),
    # Two convolutions per separable branch, as published: one cell takes a third of the margin.
    "double separables": nasnet(layers("4/2 32", "3 64"), "R2 64, R 96"),
    # The plan of `default`, and its filters distributed differently.
    "dense stem, R N 128": nasnet(DENSE, "R 128, N 128"),
    "half as wide": nasnet(HALF, "R 64, N 64"),
    "narrow early": nasnet(LATE, "R 128, N 128"),
    "narrow early, wide late": nasnet(LATE, "R 96, N 192"),
    "wide": nasnet(layers("4/2 48", "3 96", "4/2 192", "3 192"), "R 160, N 192"),
    "quick": nasnet(layers("4/2 16", "3 32", "4/2 64"), "R 48, N 48"),
    # Pools in the stem instead of strided convolutions.
    "pooled stem": nasnet(layers("4/2 32", "3 64", "2/2", "3 128"), "R 128, N 128"),
    # The margin spent on large kernels at full resolution.
    "large early kernels": nasnet(layers("6/2 32", "4/2 128", "3 128"), "R 128, N 128"),
    # A pooling head instead of a second cell; the label says "any tumour in the centre".
    "one cell, mean 4": nasnet(DENSE, "R 128", "mean", 4),
    "one cell, max 4": nasnet(DENSE, "R 128", "max", 4),
    "one cell, log-sum-exp 4": nasnet(DENSE, "R 128", "log-sum-exp", 4),
    "one cell, attention 4": nasnet(DENSE, "R 128", "attention", 4),
    # Native stride 4: a finer map, and no reduction after the first.
    "stride 4": nasnet(layers("4/2 32", "3 64", "4/2 96"), "N 48, N 48, N 48, N 48", "mean", 4),
    # No cells: the baseline to compare them with, at three costs, the last at stride 16.
    "plain": plain(
        layers("4/2 32", "3 64", "3 64", "2/2", "3 128", "3 128", "2/2", "3 256", "3 256"),
        "mean", 4,
    ),
    "plain, half as wide": plain(
        layers("4/2 16", "3 32", "3 32", "2/2", "3 64", "3 64", "2/2", "3 128", "3 128"),
        "mean", 4,
    ),
    "plain, stride 16": plain(
        layers(
            "4/2 32", "3 64", "2/2", "3 128", "3 128", "2/2", "3 256", "3 256", "2/2 ",
        ),
        "mean", 2,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speed:
    """Scan-plane megapixels a second of the network alone, its parameters and its stride."""

    fp32: float
    bf16: float
    parameters: int
    stride: int


def measure(plan: Plan, threads: int, repeats: int) -> Speed:
    """The median time of `repeats` tiles, after one tile for warming up."""
    network = Network(plan).eval()
    # The input whose cells cover TILE_PX.
    side = TILE_PX + PATCH_PX - network.field.stride
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)

    def rate(precision: engines.Precision) -> float:
        engine = make_engine(network, Backend("openvino", "cpu", precision, threads))
        engine(pixels)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            engine(pixels)
            seconds.append(time.perf_counter() - started)
        return round(TILE_PX**2 / 1e6 / statistics.median(seconds), 2)

    count = sum(p.numel() for p in network.parameters())
    return Speed(rate("fp32"), rate("bf16"), count, network.field.stride)


def speeds(path: Path, threads: int, repeats: int) -> dict[str, Speed]:
    """Measure every plan that the file `path` lacks, and keep the results there."""
    known = json.loads(path.read_text()) if path.exists() else {}
    found = {name: Speed(**value) for name, value in known.items()}
    for name in PLANS:
        if name not in found:
            found[name] = measure(PLANS[name], threads, repeats)
            click.echo(f"{name}: {found[name]}", err=True)
            keep(path, {key: asdict(value) for key, value in found.items()})
    return found


def front(rows: list[Json]) -> list[Json]:
    """The plans for which no other is both faster (bf16) and more accurate, the fastest first."""
    kept: list[Json] = []
    for row in sorted(rows, key=lambda row: -row["bf16"]):
        if not kept or row["auc"] > kept[-1]["auc"]:
            kept.append(row)
    return kept


def draw(path: Path, rows: list[Json], epochs: int) -> None:
    drawn, (panel,) = style.figure(1, 1, f"Validation AUC after {epochs} epochs")
    drawn.set_size_inches(9.5, 6.5)
    best = front(rows)
    panel.plot([r["bf16"] for r in best], [r["auc"] for r in best], color=style.GREY, zorder=1)
    for row in rows:
        colour = style.ORANGE if row["plan"].startswith("plain") else style.BLUE
        panel.scatter(row["bf16"], row["auc"], s=20 + row["parameters"] / 8000, color=colour)
        panel.annotate(
            row["plan"], (row["bf16"], row["auc"]), xytext=(5, 4), textcoords="offset points",
            fontsize=8,
        )  # fmt: skip
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("{x:g}")
    style.name(panel, "", "megapixels a second, bf16 (OpenVINO)", "AUC (area: parameters)")
    style.save(path, drawn)


def table(rows: list[Json]) -> str:
    best = [row["plan"] for row in front(rows)]
    header = (
        "Plan", "AUC", "NLL", "Mpx/s bf16", "Mpx/s fp32", "Parameters", "Stride", "Front",
    )  # fmt: skip
    return markdown(
        header,
        [
            (
                row["plan"],
                f"{row['auc']:.4f}",
                f"{row['nll']:.3f}",
                f"{row['bf16']:.1f}",
                f"{row['fp32']:.1f}",
                f"{row['parameters']:,}",
                row["stride"],
                "yes" if row["plan"] in best else "",
            )
            for row in sorted(rows, key=lambda row: -row["auc"])
        ],
    )


@click.command()
@click.option("--data", type=click.Path(path_type=Path))
@click.option("--ids", type=click.Path(path_type=Path))
@click.option("--teacher", "teachers", multiple=True, help="Teacher of every plan.")
@click.option("--config", type=click.Path(path_type=Path), help="The recipe; its plan is ignored.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE")
@click.option("--epochs", default=EPOCHS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--threads", default=cores(), show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Tiles to time for each speed.")
def main(
    data: Path | None,
    ids: Path | None,
    teachers: tuple[str, ...],
    config: Path | None,
    changes: tuple[str, ...],
    epochs: int,
    out: Path,
    threads: int,
    repeats: int,
) -> None:
    """Measure speeds, train, and print a table as Markdown; without --data only the speeds."""
    out.mkdir(parents=True, exist_ok=True)
    measured = speeds(out / SPEEDS, threads, repeats)
    if data is None:
        return
    recipe = load_config(config, changes).model_copy(update={"epochs": epochs})
    rows: list[Json] = []
    for name in sorted(PLANS, key=lambda name: -measured[name].bf16):  # the fastest first
        plan = PLANS[name]
        settings = TrainConfig.model_validate(recipe.model_copy(update={"plan": plan}).model_dump())
        folder = out / "".join(c if c.isalnum() else "-" for c in name)
        request = Request(data, folder, ids, teachers=teachers, resume=True, threads=threads)
        last = run(settings, request)[-1]
        row = {
            "plan": name,
            "auc": last.validation_auc,
            "nll": last.validation_loss,
            "accuracy": last.validation_accuracy,
            "seconds_per_epoch": last.seconds,
        }
        rows.append(row | asdict(measured[name]))
        draw(out / "architectures.png", rows, epochs)
        recorded = {"epochs": epochs, "teachers": teachers, "threads": threads, **about()}
        keep(out / RESULT, recorded | {"plans": rows})
    click.echo(table(rows))


if __name__ == "__main__":
    main()
