"""`slidescan plan`: what the network of a configuration would be, before it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.options import PATH, THREADS, precision_option, training_libraries

if TYPE_CHECKING:
    from slidescan.engines.backend import Backend, Wanted
    from slidescan.networks.network import Network

Fact = tuple[str, str]


@click.command()
@click.argument("config", type=PATH, required=False)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, e.g. --set plan.cells.0.filters=16.",
)
@click.option("--threads", type=THREADS, help="Processors to use. [default: all]")
@precision_option
def command(
    config: Path | None, changes: tuple[str, ...], threads: int | None, precision: Wanted
) -> None:
    """Describe the network of a configuration before it is trained.

    CONFIG is a YAML file with the key `plan`, or a shipped configuration's name; without it, the
    default one. A margin is what a cell needs beyond its centre on each side; a patch has 47 px.
    Operations are counted: a multiplication and an addition are two. The speed is that of the
    network alone, with random weights, on this machine.

    \b
    Examples:
      slidescan plan plan.yaml
      slidescan plan quick --set plan.head.pool=max
    """
    with training_libraries():
        from slidescan_train.recipe.config import load_config

    plan = load_config(config, changes).plan  # before torch, which takes seconds to import

    from slidescan.engines.backend import AUTO, choose
    from slidescan.networks.network import Network
    from slidescan.tools.hardware import cores

    network = Network(plan).eval().requires_grad_(False)
    for key, value in _facts(network):
        click.echo(f"{key:<12}{value}")
    backend = choose(None, AUTO, precision, threads or cores())
    click.echo(f"{'speed':<12}{_speed(network, backend)}")


def _facts(network: Network) -> Iterator[Fact]:
    from slidescan.geometry import PATCH_PX
    from slidescan.networks import operations

    yield "network", _layers(network)
    if network.plan.valid:
        seen = PATCH_PX - 2 * network.crop.cells
        beside = f", centred in {PATCH_PX} px" if seen < PATCH_PX else ""
        yield "field", f"{seen} px{beside}"
        yield "margin", f"{seen // 2 - 1} of {PATCH_PX // 2 - 1} px on each side"
        yield "stride", f"{network.field.stride} px between cells"
    else:
        yield "field", f"{PATCH_PX} px with zero padding: patches alone, and maps by --mode patch"
    yield "parameters", f"{sum(p.numel() for p in network.parameters()):,}"
    patch = f"{operations.per_patch(network) / 1e6:,.1f} million for a patch"
    if network.plan.valid:
        yield "operations", f"{operations.per_cell(network) / 1e6:,.2f} million a cell, {patch}"
    else:
        yield "operations", patch


def _layers(network: Network) -> str:
    """The architecture and how many of what it has."""
    from slidescan.networks.plan import NasnetPlan, PlainPlan

    plan = network.plan
    match plan:
        case NasnetPlan():
            parts = f"dense layers: {len(plan.stem)}, NASNet cells: {len(plan.cells)}"
        case PlainPlan():
            parts = f"dense layers: {len(plan.layers)}"
        case _:
            return f"{plan.arch}, as published"
    side = plan.head.grid
    return f"{plan.arch}, {parts}, head: {plan.head.pool} of {side} x {side}"


def _speed(network: Network, backend: Backend) -> str:
    """Megapixels a second of a tile, or patches a second."""
    import numpy as np

    from slidescan.engines.build import make_engine
    from slidescan.geometry import PATCH_PX
    from slidescan.protocols import BATCH
    from slidescan.scanning.pipeline import TILE_PX
    from slidescan.scanning.selftest import seconds_a_call

    field, valid = network.field, network.plan.valid
    count = 1 if valid else BATCH
    side = field.extent(TILE_PX // field.stride) if valid else PATCH_PX
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    engine = make_engine(network, backend)
    engine(pixels)  # compiles kernels
    taken = seconds_a_call(engine, pixels)
    found = f"{TILE_PX**2 / 1e6 / taken:.2f} Mpx/s" if valid else f"{count / taken:.0f} patches/s"
    how = f"{backend.engine} on {backend.device} in {backend.precision}"
    return f"{found} with random weights, {how}, {backend.threads} threads"
