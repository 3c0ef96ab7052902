"""`slidescan` in processes of its own, forked from one that has imported all: cheap to kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

BLOCK_CELLS = 32

_FORKS = multiprocessing.get_context("forkserver") if os.name == "posix" else None
if _FORKS:
    _FORKS.set_forkserver_preload(
        [
            f"slidescan.{name}"
            for name in ("commands.heatmap", "job", "engines.torch", "slide", "store", "tissue")
        ]
        + ["slidescan_train.runs.run"]
    )


@dataclass(frozen=True)
class Strike:
    """A signal that the process sends itself around the nth call of a function."""

    target: str
    """As "slidescan.maps.store:Heatmap.write"."""
    call: int = 1
    after: bool = False
    signal: int = signal.SIGKILL


def slidescan(
    *arguments: object,
    log: Path,
    strike: Strike | None = None,
    block_cells: int = BLOCK_CELLS,
    most_bytes: int | None = None,
) -> int:
    """Run the command line; returns the exit code, negative for a signal. Output goes to `log`.

    `most_bytes` is the size that no file may pass, which looks like a full disk.
    """
    assert _FORKS
    arguments = tuple(map(str, arguments))
    process = _FORKS.Process(target=_run, args=(arguments, log, strike, block_cells, most_bytes))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(
    arguments: Sequence[str],
    log: Path,
    strike: Strike | None,
    block_cells: int,
    most_bytes: int | None,
) -> None:
    from slidescan.cli import main
    from slidescan.maps import layout, ngff

    sys.stdout.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    layout.BLOCK_CELLS, layout.CHUNK_CELLS = block_cells, block_cells // 2
    ngff.LEVEL_CELLS = block_cells
    if strike:
        _arm(strike)
    if most_bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    main(arguments, prog_name="slidescan")


def _arm(strike: Strike) -> None:
    module, _, name = strike.target.partition(":")
    owner: Any = import_module(module)
    *parents, name = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)
    calls = 0

    @wraps(original)
    def struck(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        mine = calls == strike.call
        if mine and not strike.after:
            os.kill(os.getpid(), strike.signal)
        result = original(*args, **kwargs)
        if mine and strike.after:
            os.kill(os.getpid(), strike.signal)
        return result

    setattr(owner, name, struck)
