"""Run many commands in a process that is watched: a crash or a hang is a finding, not the end."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

SECONDS, MEMORY_MB = 60, 2048
"""What no command on a small file may exceed; the seconds are of a processor."""

WAIT_SECONDS = 600
"""When a command counts as hanging although it uses no processor; a busy machine is slow."""


@dataclass(frozen=True)
class Outcome:
    """How one command ended."""

    code: int
    """The exit code; that of the process, negative, where a signal ended it."""
    stderr: str
    memory_mb: int
    """The largest memory so far of the process and of the one that reads slides, together."""

    def fault(self) -> str | None:
        """What is wrong with this end; None for success and for an error of one line."""
        lines = [line for line in self.stderr.splitlines() if not line.startswith("Warning: ")]
        if self.memory_mb > MEMORY_MB:
            return f"took {self.memory_mb} MB"
        if self.code == 0:
            return f"success with {lines}" if lines else None
        if self.code == 1 and len(lines) == 1 and lines[0].startswith("Error: "):
            return None
        return f"exit code {self.code}, {self.stderr[-600:]}"


class Watched:
    """A process that runs commands one after the other, and is started anew if it ends."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["slidescan.commands.heatmap"])
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def run(self, *arguments: object) -> Outcome:
        """Run `slidescan ARGUMENTS`."""
        self._pipe.send([str(each) for each in arguments])
        try:
            if self._ends():
                outcome: Outcome = self._pipe.recv()
                return outcome
            outcome = Outcome(-1, f"no end within {SECONDS} s of a processor", 0)
        except (EOFError, ConnectionResetError):
            self._process.join()
            outcome = Outcome(self._process.exitcode or -1, "the process ended", 0)
        self._end()
        self._start()
        return outcome

    def _ends(self) -> bool:
        """Wait for the command's end; false where it takes too long."""
        before = _processor_seconds(self._process.pid)
        for _ in range(WAIT_SECONDS):
            if self._pipe.poll(1):
                return True
            if _processor_seconds(self._process.pid) - before > SECONDS:
                break
        return False


def _processor_seconds(pid: int | None) -> float:
    """The time that a process and its children have used; 0 where the system does not tell.

    Children that have ended count as well.
    """
    total = 0
    for one in (pid, *_children(pid)):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def _children(pid: int | None) -> list[int]:
    """Processes of a process; none where the system does not tell, as outside Linux."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def _work(pipe: Connection) -> None:
    import traceback
    import warnings

    import torch
    from click.testing import CliRunner

    from slidescan.cli import main

    torch.set_num_threads(1)
    while True:
        try:
            arguments: Sequence[str] = pipe.recv()
        except EOFError:
            return
        with warnings.catch_warnings(record=True) as caught:
            result = CliRunner().invoke(main, arguments)
        told = result.stderr + "".join(
            f"{each.category.__name__}: {each.message}\n" for each in caught
        )
        if result.exc_info and result.exception and not isinstance(result.exception, SystemExit):
            told += "".join(traceback.format_exception(*result.exc_info))
        pipe.send(Outcome(result.exit_code, told, _memory_mb()))


def _memory_mb() -> int:
    import resource

    mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for child in _children(os.getpid()):
        with suppress(OSError):
            lines = Path(f"/proc/{child}/status").read_text().splitlines()
            mb += sum(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))
    return mb
