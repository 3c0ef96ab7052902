"""The door: `slidescan COMMAND`. Commands are imported when called, so --help is instant."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from slidescan.errors import SlidescanError

COMMANDS = {
    name: f"{package}.commands.{name.replace('-', '_')}"
    for package, names in (
        ("slidescan", ("heatmap", "verify", "export", "predict", "evaluate", "calibrate")),
        ("slidescan", ("annotations", "models", "doctor", "data")),
        ("slidescan_train", ("train", "augment", "lr-find", "runs", "configs")),
    )
    for name in names
}
"""The module of each command, in the order people need them. Named, not imported: training's
commands import this package, and `--help` must not load what only one command needs."""


class Commands(click.Group):
    """Loads a command on demand and turns errors a user can act on into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The function `command` of the module that COMMANDS names."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name])
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Exit code 1 and one line for what went wrong on the user's side."""
        try:
            with _stopped_like_ctrl_c():
                return super().invoke(ctx)
        except SlidescanError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            raise click.ClickException("interrupted") from error


@contextmanager
def _stopped_like_ctrl_c() -> Iterator[None]:
    """SIGTERM, by which schedulers and containers stop a program, ends it as Ctrl-C does: what is
    finished is written, and nothing temporary stays."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes handlers of signals from the main thread alone
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command("slidescan", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="slidescan")
def main() -> None:
    """Tumour heatmaps of whole slides from a padding-free NASNet.

    Every cell of a map equals what the patch classifier says of the 96 x 96 px around it.
    Research use only: slidescan is not a medical device.
    """
