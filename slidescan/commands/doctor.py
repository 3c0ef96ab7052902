"""`slidescan doctor`: describes the machine, and tests speed and exactness on it."""

from __future__ import annotations

from typing import Any

import click

from slidescan.commands.options import engine_options, models_option, precision_option
from slidescan.commands.terminal import bar


@click.command()
@models_option
@engine_options
@precision_option
def command(models: tuple[str, ...], **options: Any) -> None:
    """Describe the machine and test a scan on it: speed and exactness, in ten seconds.

    The speed is that of the network alone, on a tile of noise. For exactness, cells of the tile are
    scored again as patches, by the same engine and by the reference (torch in fp32 on the CPU).
    Exit code 1 if a cell differs by more than the tolerance. The options are those of heatmap.

    \b
    Examples:
      slidescan doctor
      slidescan doctor --model fast --precision auto
    """
    from slidescan.engines.backend import AUTO, choose
    from slidescan.engines.ensemble import Ensemble
    from slidescan.engines.scan_modes import choose_stride
    from slidescan.errors import ModelError
    from slidescan.scanning import selftest
    from slidescan.tools.hardware import cores

    ensemble = Ensemble.load(models, cache=options["cache"])
    choose_stride(ensemble, "dense", None)
    backend = choose(
        options["engine"],
        options["device"] or AUTO,
        options["precision"],
        options["threads"] or cores(),
    )
    for key, value in selftest.facts():
        click.echo(f"{key:<11}{value}")
    click.echo(
        f"{'used':<11}{backend.engine} on {backend.device} in {backend.precision}, "
        f"{backend.threads} threads; model {ensemble.name}"
    )
    with bar("testing", 3, "step") as progress:
        found = selftest.examine(ensemble, backend, progress.update)
    click.echo(f"{'speed':<11}{found.mpx_per_s:.1f} megapixels a second, the network alone")
    line = (
        f"{selftest.CELLS} cells differ from their patches by at most {found.from_patches:.2g}, "
        f"from the reference (torch, cpu, fp32) by {found.from_fp32:.2g}; "
        f"tolerance {found.tolerance:g}"
    )
    if not found.sound:
        raise ModelError(f"{line}: this engine is NOT right here; try --engine torch --device cpu")
    click.echo(f"{'exactness':<11}{line}")
    fastest = choose(backend.engine, backend.device, AUTO, 1).precision
    if backend.precision == "fp32" and fastest != "fp32":
        click.echo(f"{'hint':<11}this machine is faster with --precision auto")
