"""Speed of each exact rewrite of a network on the CPU engine, the rejected ones included.

    python -m benchmarks.speed.rewrites [--model default --model fast] [--precision fp32] \
        [--out FOLDER]

All variants of a network take turns on the same tile, so that other work on the machine slows all
of them alike; the ratio is the median over the turns. Prints a Markdown table.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import click
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.support.reports import about, keep, markdown
from slidescan.engines.backend import Backend
from slidescan.engines.build import make_engine
from slidescan.engines.openvino import compiling
from slidescan.models import model
from slidescan.networks.cells import Cell, Crop
from slidescan.networks.fast_rewrites import (
    REWRITES,
    activate_before_crop,
    branches,
    classify_by_parts,
)
from slidescan.networks.genotype import FIRST_STEP
from slidescan.networks.network import Network
from slidescan.protocols import Engine
from slidescan.scanning import pipeline
from slidescan.tools.hardware import cores

Rewrite = Callable[[Network], None]


def fold_normalisation(network: Network) -> None:
    """Fold the normalisation of colours into the first convolution's weights and a bias."""
    first = next(part for part in network.body.modules() if isinstance(part, nn.Conv2d))
    weight = first.weight.double() * network.normalise.scale.double()
    bias = (first.weight.double() * network.normalise.shift.double()).sum((1, 2, 3))
    first.weight, first.bias = parameter(weight), parameter(bias)
    network.add_module("normalise", nn.Identity())


def fold_batch_norm(network: Network) -> None:
    """Fold BatchNorm into convolutions, which OpenVINO does as well."""
    for parent in list(network.modules()):
        names = [name for name, _ in parent.named_children()]
        for name, after in pairwise(names):
            conv, norm = getattr(parent, name), getattr(parent, after)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, nn.utils.fuse_conv_bn_eval(conv, norm))
                parent.add_module(after, nn.Identity())


def merge_separables(network: Network) -> None:
    """Merge depthwise and pointwise convolutions into dense ones."""
    for _, separable in branches(network):
        if isinstance(separable, nn.Sequential):
            _, depthwise, across, _ = cast("Any", separable)
            weight = across.weight.double() * depthwise.weight.double().transpose(0, 1)
            outputs, inputs, *kernel = weight.shape
            dense = nn.Conv2d(inputs, outputs, (kernel[0], kernel[1]), depthwise.stride, bias=False)
            dense.weight = parameter(weight)
            separable[1], separable[2] = dense, nn.Identity()


class Behind(nn.Module):
    """An operation followed by a crop."""

    def __init__(self, operation: nn.Module, crop: Crop) -> None:
        super().__init__()
        self.operation, self.crop = operation, crop

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.crop(self.operation(x))
        return out


def crop_behind_stride(network: Network) -> None:
    """Move the even part of a crop behind the following stride of 2, where it is half as wide."""
    for cell in network.modules():
        if isinstance(cell, Cell) and cell.stride == 2:
            for step, sources in zip(cell.steps, cell.sources, strict=True):
                for branch, source in zip(cast("Any", step), sources, strict=True):
                    crop, operation = branch
                    if source < FIRST_STEP and crop.cells > 1:
                        behind = Crop(crop.cells // 2)
                        branch[0] = Crop(crop.cells % 2)
                        if isinstance(operation, nn.Sequential):
                            branch[1] = nn.Sequential(*operation, behind)
                        else:
                            branch[1] = Behind(operation, behind)


class JoinedCell(Cell):
    """A cell that computes a sum of two pointwise products as one product over joined inputs."""

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        states = [self.current(current), self.previous(previous)]
        for step, sources in zip(self.steps, self.sources, strict=True):
            inputs = [states[source] for source in sources]
            if isinstance(step, nn.Sequential):
                *depthwise, across = step
                parts = [part(x) for part, x in zip(depthwise, inputs, strict=True)]
                states.append(across(torch.cat(parts, dim=1)))
            else:
                pair = zip(cast("Any", step), inputs, strict=True)
                left, right = (branch(x) for branch, x in pair)
                states.append(left + right)
        return torch.cat(
            [crop(states[i]) for crop, i in zip(self.crops, self.output, strict=True)], dim=1
        )


def join_products(network: Network) -> None:
    for cell in network.modules():
        if isinstance(cell, Cell):
            cell.__class__ = JoinedCell
            for place, step in enumerate(cast("Any", cell.steps)):
                if all(isinstance(operation, nn.Sequential) for _, operation in step):
                    cell.steps[place] = joined(step)


def joined(step: Any) -> nn.Sequential:
    """Two depthwise halves and their common product."""
    halves, weights, shifts = [], [], []
    for crop, (relu, depthwise, across, norm) in step:
        folded = nn.utils.fuse_conv_bn_eval(across, norm)
        halves.append(nn.Sequential(crop, relu, depthwise))
        weights.append(folded.weight)
        shifts.append(folded.bias)
    product = nn.Conv2d(sum(w.shape[1] for w in weights), len(weights[0]), 1)
    product.weight, product.bias = (
        parameter(torch.cat(weights, 1)),
        parameter(shifts[0] + shifts[1]),
    )
    return nn.Sequential(*halves, product)


def parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float(), requires_grad=False)


VARIANTS: dict[str, tuple[Rewrite, ...]] = {
    "plain": (),
    "ReLU before the crop": (activate_before_crop,),
    "classified by parts": (classify_by_parts,),
    "both, as shipped": REWRITES,
    "both, crop behind a stride": (crop_behind_stride, *REWRITES),
    "both, normalisation folded": (*REWRITES, fold_normalisation),
    "both, BatchNorm folded": (*REWRITES, fold_batch_norm),
    "added products joined": (join_products,),
    "separables dense": (merge_separables,),
}


def built(network: Network, rewrites: tuple[Rewrite, ...], precision: str) -> Engine:
    """Build an engine of the network with exactly these rewrites."""
    changed = copy.deepcopy(network)
    for rewrite in rewrites:
        rewrite(changed)
    with patch.object(compiling, "rewritten", nn.Module.eval):
        return make_engine(changed, Backend("openvino", "cpu", precision, cores()))


def measured(network: Network, precision: str, seconds: float) -> dict[str, Any]:
    """Measure each variant: megapixels a second, and the ratio to the plain network."""
    cells = pipeline.TILE_PX // network.field.stride
    side = network.field.extent(cells)
    tile = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    engines = {name: built(network, how, precision) for name, how in VARIANTS.items()}
    values = {name: engine(tile) for name, engine in engines.items()}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["plain"]) < 3:
        for name, engine in engines.items():
            started = time.perf_counter()
            engine(tile)
            times[name].append(time.perf_counter() - started)
    plain = times["plain"]
    return {
        name: {
            "mpx_per_s": round(pipeline.TILE_PX**2 / 1e6 / statistics.median(taken), 1),
            "ratio": round(statistics.median(a / b for a, b in zip(plain, taken, strict=True)), 3),
            "largest_difference": float(np.abs(values[name] - values["plain"]).max()),
        }
        for name, taken in times.items()
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    return markdown(
        ["rewrite", *results],
        [
            [name, *(f"{r[name]['mpx_per_s']} ({r[name]['ratio']:.2f})" for r in results.values())]
            for name in VARIANTS
        ],
    )


@click.command()
@click.option("--model", "models", multiple=True, default=("default", "fast"), show_default=True)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "bf16"]),
    multiple=True,
    default=("fp32", "bf16"),
    show_default=True,
)
@click.option(
    "--seconds", default=10.0, show_default=True, help="Duration for each model and precision."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for rewrites.json.")
def main(
    models: tuple[str, ...], precisions: tuple[str, ...], seconds: float, out: Path | None
) -> None:
    """Print a table: scan-plane megapixels a second, and the ratio to the plain network."""
    torch.set_num_threads(1)
    results = {
        f"{name} {precision}": measured(model.load(name).network, precision, seconds)
        for name, precision in tqdm(list(product(models, precisions)), disable=None)
    }
    if out:
        keep(out / "rewrites.json", {"results": results, **about()})
    click.echo(table(results))


if __name__ == "__main__":
    main()
