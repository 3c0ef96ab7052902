"""Accuracy and speed of the shipped models.

    python -m benchmarks.accuracy.models --validation OTHER_SLIDES [NAME ...] [--record]
    python -m benchmarks.accuracy.models --data DIR --ids configs/pcam-9300.txt [NAME ...]

Scores are those of the network without its calibration, by OpenVINO in fp32: on all patches of
--validation, or on those of --data that a hash of their ids holds out. D4 averages the eight flips
and turns. The interval of an AUC's difference from the first model resamples the same patches for
both. A second table has, for every precision, the difference of its probabilities from fp32 and
the speed of the network alone: on tiles as a scan reads them (1024 px of the scan plane and their
halo), for padded networks on batches of patches. --record writes scores and speed into the cards.
Needs the extra `train`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from slidescan_train.loop.validation import validate
from tqdm import tqdm

from benchmarks.support.reports import about, keep, markdown
from benchmarks.support.studies import Scores, against, judge
from slidescan.engines.averaging import Oriented
from slidescan.engines.backend import Wanted, choose
from slidescan.engines.build import make_engine
from slidescan.errors import ConfigError
from slidescan.geometry import Field
from slidescan.models.card import (
    Card,
    Speed,
    locate,
    read_card,
    shipped,
    shipped_names,
    write_card,
)
from slidescan.models.model import Model, load
from slidescan.networks.network import Network
from slidescan.patches.labelled import load_data
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.splits import ids_sha256
from slidescan.patches.labelled.whole import load_all
from slidescan.protocols import Engine
from slidescan.scanning.pipeline import TILE_PX
from slidescan.tools.hardware import cores

BATCH = 64
PRECISIONS: tuple[Wanted, ...] = ("fp32", "bf16", "int8")
HEAD = (
    *("model", "AUC (95 % interval)", "accuracy", "NLL", "ECE"),
    *("D4: AUC (95 % interval)", "accuracy", "NLL", "ECE"),
    *("to the first: AUC", "parameters", "MB", "stride"),
)
PRECISION_HEAD = ("model", "precision", "Mpx/s", "AUC", "largest difference from fp32", "mean")


def score(engine: Engine, patches: Patches) -> NDArray[np.float32]:
    found = [
        engine(patches.pixels(slice(start, start + BATCH)))[:, 0, 0]
        for start in tqdm(range(0, len(patches), BATCH), desc="scoring", disable=None)
    ]
    return np.concatenate(found)


def example(card: Card) -> tuple[NDArray[np.uint8], float]:
    """Make an input of noise, and tell how many scan-plane megapixels its cells cover."""
    side, count, covered = card.field_px, BATCH, BATCH * card.stride_px**2
    if card.plan.valid:
        cells = TILE_PX // card.stride_px
        side = Field(0, card.field_px, card.stride_px).extent(cells)
        count, covered = 1, (cells * card.stride_px) ** 2
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, side, side, 3), np.uint8), covered / 1e6


def speed(engine: Engine, card: Card, repeats: int) -> float:
    """Measure megapixels a second: the median of the repeats."""
    pixels, mpx = example(card)
    for _ in range(2):
        engine(pixels)  # the first calls build kernels
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        engine(pixels)
        seconds.append(time.perf_counter() - started)
    return mpx / statistics.median(seconds)


def engines(network: Network, threads: int) -> Iterator[tuple[str, Engine]]:
    """Build an engine for every precision that the network has."""
    for precision in PRECISIONS:
        with suppress(ConfigError):  # int8 needs a dense stem
            yield precision, make_engine(network, choose("openvino", "cpu", precision, threads))


def measure(
    model: Model, patches: Patches, threads: int, repeats: int
) -> tuple[Scores, dict[str, Any]]:
    """Score the patches: P(tumour), (1, N), and all that was measured."""
    card = model.card
    # A calibration may have been fitted to these patches.
    network = model.network.uncalibrated()
    by = dict(engines(network, threads))
    turned = Oriented(by["fp32"], Field(0, card.field_px, card.stride_px))
    found = {precision: score(engine, patches) for precision, engine in by.items()}
    validations = {p: validate(patches.labels, scores) for p, scores in found.items()}
    return found["fp32"][None], {
        "validation": validations["fp32"].model_dump(),
        "d4": validate(patches.labels, score(turned, patches)).model_dump(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "stride_px": card.stride_px,
        "mpx_per_s": {
            f"openvino {p}": round(speed(engine, card, repeats), 2) for p, engine in by.items()
        },
        "auc": {p: validation.auc for p, validation in validations.items()},
        "from_fp32": {p: apart(scores, found["fp32"]) for p, scores in found.items()},
        "weights_sha256": card.weights_sha256,
    }


def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> dict[str, float]:
    difference = np.abs(one - other)
    return {"largest": float(difference.max()), "mean": float(difference.mean())}


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, row in rows.items():
        cells = [name, *scores(row["validation"]), *scores(row["d4"]), row["to_first"]]
        cells.append(f"{row['parameters']:,}")
        lines.append([*cells, f"{row['bytes'] / 1e6:.1f}", f"{row['stride_px']} px"])
    return markdown(HEAD, lines)


def precisions(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, row in rows.items():
        for precision, off in row["from_fp32"].items():
            mpx, auc = row["mpx_per_s"][f"openvino {precision}"], row["auc"][precision]
            differences = f"{off['largest']:.4f}", f"{off['mean']:.5f}"
            lines.append([name, precision, f"{mpx:.1f}", f"{auc:.4f}", *differences])
    return markdown(PRECISION_HEAD, lines)


def scores(found: dict[str, float]) -> list[str]:
    auc = f"{found['auc']:.4f} ({found['auc_low']:.4f} to {found['auc_high']:.4f})"
    return [auc, *(f"{found[key]:.4f}" for key in ("accuracy", "nll", "ece"))]


def check(name: str, card: Card, patches: Patches) -> None:
    """Refuse to record scores on patches that were not held out."""
    if card.held_out_sha256 != ids_sha256(patches.ids):
        raise click.ClickException(
            f"{name}: the validation patches are not those that its card says were held out; "
            "correct --validation, or --data and --ids, or leave --record out"
        )


def record(name: str, row: dict[str, Any], about: dict[str, Any]) -> None:
    found = Speed(mpx_per_s=row["mpx_per_s"], **about)
    told = {"validation": row["validation"], "parameters": row["parameters"], "speed": found}
    card = read_card(name)
    new = Card.model_validate(card.model_dump() | told)
    write_card(locate(name)[1], new)


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--data", type=click.Path(path_type=Path), help="Score what the split holds out.")
@click.option("--ids", type=click.Path(path_type=Path), help="File with the ids of --data to use.")
@click.option("--validation", type=click.Path(path_type=Path), help="Score all of its patches.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for the packed patches.")
@click.option("--threads", default=cores(), show_default=True)
@click.option("--repeats", default=7, show_default=True, help="Timed calls for each speed.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for all figures.")
@click.option("--record", "recorded", is_flag=True, help="Write scores and speed into the cards.")
def main(
    names: tuple[str, ...],
    data: Path | None,
    ids: Path | None,
    validation: Path | None,
    cache: Path | None,
    threads: int,
    repeats: int,
    out: Path | None,
    recorded: bool,
) -> None:
    """Evaluate and time the models; print tables as Markdown."""
    names = names or tuple(shipped_names())
    if validation:
        patches = load_all(validation, cache=cache).patches
    elif data:
        patches = load_data(data, only=ids, cache=cache).validation
    else:
        raise click.UsageError("pass --validation or --data")
    for name in names if recorded else ():
        check(name, read_card(name), patches)
    source = "--validation" if validation else "--data"
    again = (
        f"python -m benchmarks.accuracy.models {source} DIR --threads {threads} --repeats {repeats}"
    )
    where = {**about(), "command": again}
    rows: dict[str, dict[str, Any]] = {}
    first: Scores | None = None
    for name in names:
        found, row = measure(load(name), patches, threads, repeats)
        to_first = against(judge(name, patches.labels, found, first))
        rows[name] = row | {"to_first": to_first, "bytes": locate(name)[0].stat().st_size}
        first = found if first is None else first
        if recorded:
            record(name, rows[name], where)
    total = sum(path.stat().st_size for path in shipped("default").parent.iterdir())
    click.echo(f"{table(rows)}\n\n{precisions(rows)}")
    click.echo(
        f"\n{len(patches)} held-out patches. Weights and cards of all shipped models: "
        f"{total / 1e6:.1f} MB. {where['machine']}, {where['date']}."
    )
    if out:
        keep(out, {"patches": len(patches), "models": rows, "shipped_bytes": total, **where})


if __name__ == "__main__":
    main()
