"""The entry point, `slidescan COMMAND`. A command is imported when it is called."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module
from traceback import walk_tb
from typing import Any

import click

from slidescan.errors import OUT_OF_MEMORY, SlidescanError, lacks_memory
from slidescan.tools.little_memory import ask_before_threads, log_no_lack_of_memory
from slidescan.tools.regular_files import TOO_MANY_FILES

COMMANDS = {
    name: f"{package}.commands.{name.replace('-', '_')}"
    for package, names in (
        ("slidescan", ("heatmap", "status", "verify", "view", "report", "regions", "export")),
        ("slidescan", ("predict", "evaluate", "calibrate")),
        ("slidescan", ("annotations", "models", "doctor", "data")),
        ("slidescan_train", ("train", "augment", "lr-find", "runs", "plan", "configs")),
    )
    for name in names
}
"""The module of each command, in the order of `--help`. By name, not imported: training's commands
import this package, and `--help` must not load what only one command needs."""

OTHER_NAMES = {
    "--batch-size": "batch",
    "--checkpoint": "--model",
    "--cpu": "--device cpu",
    "--force": "--overwrite",
    "--gpu": "--device cuda",
    "--jobs": "--threads",
    "--lr": "learning_rate",
    "--num-workers": "--threads",
    "--output": "--out",
    "--resolution": "--mpp",
    "--slide-mpp": "--mpp",
    "--step": "--stride",
    "--weights": "--model",
    "--workers": "--threads",
}
"""Options by the names that other programs give them; without dashes, settings of a training."""


class Commands(click.Group):
    """Loads a command on demand and turns errors a user can act on into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The function `command` of the module that COMMANDS names."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name])
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; exit code 2 and a suggestion where there is none of this name."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line, whatever state its standard streams are in."""
        _open_standard_streams()
        ask_before_threads()
        log_no_lack_of_memory()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if not _while_printing(error):
                raise
            with suppress(OSError):
                why = f"standard output cannot be written ({error.strerror})"
                click.ClickException(f"{why}; make room or choose another place").show()
            _silence_streams()
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; exit code 1 and one line for an error that the user can correct."""
        try:
            with _stopped_like_ctrl_c():
                return super().invoke(ctx)
        except click.NoSuchOption as error:
            hint = error.ctx and _hint(error.ctx, error.option_name)
            if hint:
                raise click.UsageError(f"{error.message} {hint}", error.ctx) from error
            raise
        except SlidescanError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            raise click.ClickException("interrupted") from error
        except OSError as error:
            if error.errno not in TOO_MANY_FILES:
                raise
            raise click.ClickException(
                f"{error.strerror}; raise the limit, e.g. ulimit -n 4096, and run the same command "
                "again"
            ) from error
        except Exception as error:
            if not lacks_memory(error):
                raise
            raise click.ClickException(OUT_OF_MEMORY) from error


def _open_standard_streams() -> None:
    """Open closed standard streams on the null device.

    Otherwise the next file that is opened, perhaps a map's, gets the number of stderr, to which
    libraries print their warnings.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) == number and getattr(sys, name) is None:
                stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
                setattr(sys, name, stream)


def _silence_streams() -> None:
    """Drop what the streams still hold: Python would try to write it at its end."""
    from slidescan.commands.terminal import silence

    silence(sys.stdout)
    silence(sys.stderr)


def _while_printing(error: OSError) -> bool:
    """Whether an error is that of a standard stream: raised by click.echo itself."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return frames[-1].f_code is click.echo.__code__


def _hint(ctx: click.Context, option: str) -> str | None:
    """What to write instead of an option that a command does not have, where that is known."""
    options = {name for each in ctx.command.params for name in each.opts}
    known = OTHER_NAMES.get(option, "")
    if known.partition(" ")[0] in options:
        return f"Did you mean {known}?"
    if "--set" not in options or get_close_matches(option, options):
        return None
    key = known or option.strip("-").replace("-", "_")
    return f"Settings are changed with --set, e.g. --set {key}=VALUE."


@contextmanager
def _stopped_like_ctrl_c() -> Iterator[None]:
    """End a command on SIGTERM as on Ctrl-C: finished work is written, temporary files go.

    Schedulers and containers stop a program by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows signal handlers in the main thread only
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

    Each value of a map equals the patch classifier's answer for the 96 x 96 px around it. Research
    use only: slidescan is not a medical device.
    """
