"""`slidescan view` in a process of its own, beside a scan."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from slidescan.commands.checks import is_map
from slidescan.commands.options import viewer_libraries

LOOK_S = 0.2
"""How often it is looked whether there is a map to show."""


@contextmanager
def viewer_of(slides: Sequence[Path], out: Path, options: Sequence[str]) -> Iterator[None]:
    """Show slides and their maps while the body scans, and afterwards until Ctrl-C.

    The viewer starts when the first map is there. It ends at once where the body fails.

    Raises ConfigError where its libraries are missing.
    """
    with viewer_libraries():
        import slidescan.viewer.serving  # noqa: F401
    command = [sys.executable, "-m", "slidescan", "view", *map(str, (*slides, out)), *options]
    ended = threading.Event()
    started: list[subprocess.Popen[bytes]] = []

    def there() -> bool:
        return is_map(out) or any(out.glob("*.zarr"))

    def start() -> None:
        while not there() and not ended.wait(LOOK_S):
            pass
        if there():  # looked at again: a short scan ends within one wait
            started.append(subprocess.Popen(command))

    waiting = threading.Thread(target=start, daemon=True)
    waiting.start()
    try:
        yield
    except BaseException:
        ended.set()
        waiting.join()
        _end(started)
        raise
    ended.set()
    waiting.join()
    try:
        if started:
            click.echo("The scan has finished; Ctrl-C ends the viewer.")
        for viewer in started:
            viewer.wait()
    except KeyboardInterrupt:
        _end(started)  # a terminal's Ctrl-C has reached it as well


def _end(viewers: Sequence[subprocess.Popen[bytes]]) -> None:
    for viewer in viewers:
        viewer.terminate()
        viewer.wait()
