"""`slidescan export`: maps in forms that other programs and people read."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

FORMATS = {
    "geojson": "geojson",
    "png": "pictures",
    "jpg": "pictures",
    "ome-tiff": "ome_tiff",
    "ngff04": "ngff04",
    "csv": "tables",
    "parquet": "tables",
    "dicom": "dicom",
    "spatialdata": "spatialdata",
}
"""The module of each format, in the order of `--help`. It has a command of the format's name, with
underscores for hyphens, and is imported when it is called."""


class Formats(click.Group):
    """Loads the command of a format on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All, in the order of FORMATS."""
        return list(FORMATS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a format."""
        if cmd_name not in FORMATS:
            return None
        module: Any = import_module(f"{__name__}.{FORMATS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a format; exit code 2 and the list of formats where there is none of this name."""
        if args[0] not in FORMATS and not args[0].startswith("-"):
            raise click.UsageError(
                f"No such format '{args[0]}'. There are {', '.join(FORMATS)}.", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(cls=Formats)
def command() -> None:
    """Write a finished map in another form."""
