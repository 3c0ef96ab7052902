"""`slidescan configs`: the configurations that come with slidescan."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the shipped configurations, or print the one called NAME.

    `train`, `lr-find` and `augment` take a name or a YAML file as --config. To change one, print it
    to a file, or pass --set KEY=VALUE.

    \b
    Examples:
      slidescan configs
      slidescan configs quick
    """
    from slidescan.errors import ConfigError
    from slidescan.tools.spelling import suggestion
    from slidescan_train.recipe import shipped

    known = shipped.names()
    if name is None:
        width = max(map(len, known))
        for each in known:
            click.echo(f"{each.ljust(width)}  {shipped.summary(each)}")
    elif (stem := Path(name).stem) in known:
        click.echo(shipped.read(stem), nl=False)
    else:
        raise ConfigError(f"{name}: no such configuration; {suggestion(stem, known)}")
