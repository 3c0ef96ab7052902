"""Run `slidescan` in processes of its own, so that tests can kill it.

The processes are forked from one that has imported PRELOADED, which saves each the seconds that
importing torch takes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from waiting import PATIENCE_S, wait_until

Prepare = Callable[[], None]

BLOCK_CELLS = 32
PRELOADED = [
    "slidescan.commands.heatmap",
    "slidescan.engines.torch_engine",
    "slidescan.scanning.session",
    "slidescan_train.runs.run",
]


@cache
def _forkserver() -> Any:
    """Return the context of the processes; the first one starts the process they are forked from.

    That process ignores a module that it cannot import, so the names are checked here.
    """
    missing = [name for name in PRELOADED if not find_spec(name)]
    assert not missing, f"PRELOADED names modules that do not exist: {missing}"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


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
    world: int = 1,
    prepare: Prepare | None = None,
) -> int:
    """Run the command line; returns the exit code, negative for a signal. Output goes to `log`.

    `most_bytes` is the size that no file may pass, which looks like a full disk. A training runs in
    `world` processes, started as torchrun starts them. `prepare`, a function of a module of
    tests/support, is called in the process first.
    """
    process = _started(arguments, log, strike, block_cells, most_bytes, world, prepare)
    process.join()
    assert process.exitcode is not None
    return int(process.exitcode)


def stop(
    *arguments: object,
    log: Path,
    after_s: float,
    how: signal.Signals = signal.SIGKILL,
    prepare: Prepare | None = None,
) -> int:
    """Run the command line and send it a signal after some time; returns the exit code.

    The processes that it had started must end with it.
    """
    process = _started(arguments, log, None, BLOCK_CELLS, None, 1, prepare)
    process.join(after_s)
    started = descendants(process.pid)
    if process.exitcode is None:
        os.kill(process.pid, how)
    process.join(5 * PATIENCE_S)
    assert process.exitcode is not None, log.read_text()
    assert_ended(started)
    return int(process.exitcode)


def stop_when(
    condition: Callable[[int], object], *arguments: object, log: Path, how: signal.Signals
) -> int:
    """`stop` once a condition, of the number of processes that it has started, is true."""
    process = _started(arguments, log, None, BLOCK_CELLS, None, 1, None)
    begun = wait_until(lambda: condition(len(descendants(process.pid))), 5 * PATIENCE_S)
    assert begun, log.read_text()
    started = descendants(process.pid)
    os.kill(process.pid, how)
    process.join(5 * PATIENCE_S)
    assert process.exitcode is not None, log.read_text()
    assert_ended(started)
    return int(process.exitcode)


def descendants(pid: int) -> set[tuple[int, str]]:
    """The living processes that a process has started, and theirs; none where /proc is missing.

    Each with its time of start, because the system uses numbers again.
    """
    found = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                found |= {(child, start) for start in _start(child)} | descendants(child)
    return found


def assert_ended(processes: set[tuple[int, str]]) -> None:
    """Wait until processes have ended."""

    def left() -> list[int]:
        return [pid for pid, start in processes if start in _start(pid)]

    assert wait_until(lambda: not left()), f"processes that stay: {left()}"


def _start(pid: int) -> list[str]:
    """When a process began, in the ticks of the system; nothing once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else [fields[19]]


def _started(arguments: Sequence[object], log: Path, *more: object) -> Any:
    log.write_bytes(b"")  # it may be stopped before it opens it
    process = _forkserver().Process(target=_run, args=(tuple(map(str, arguments)), log, *more))
    process.start()
    return process


def _run(
    arguments: Sequence[str],
    log: Path,
    strike: Strike | None,
    block_cells: int,
    most_bytes: int | None,
    world: int,
    prepare: Prepare | None,
) -> None:
    from slidescan_train.runs.run_folder import RunFolder

    from slidescan.maps import layout, ngff

    sys.stdout.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    layout.BLOCK_CELLS, layout.CHUNK_CELLS = block_cells, block_cells // 2
    ngff.LEVEL_CELLS = block_cells
    RunFolder._draw = lambda *_: None  # pictures take most of a tiny run's time
    if strike:
        _arm(strike)
    if most_bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    if prepare:
        prepare()
    if world > 1:
        _launch(arguments, world)
    else:
        _main(arguments)


def fill_the_disk() -> None:
    """Let no file grow beyond 8,000 bytes once a block of a map is written.

    Not from the start: the memory that the process shares with the one that reads slides is a file
    for the system.
    """
    import resource

    from slidescan.maps.store import Heatmap

    original: Any = Heatmap.write

    def write(*args: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
        original(*args)

    Heatmap.write = write  # type: ignore[method-assign]


def _main(arguments: Sequence[str]) -> None:
    from slidescan.cli import main

    sys.argv[1:] = arguments
    main(arguments, prog_name="slidescan")


def _launch(arguments: Sequence[str], world: int) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world,
        run_id="slidescan",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port, so that tests may run side by side
        local_addr="localhost",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, _worker)(arguments)


def _worker(arguments: Sequence[str]) -> None:
    """End as a function does: the launcher waits for what it returns."""
    try:
        _main(arguments)
    except SystemExit as ended:
        if ended.code:
            raise


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
