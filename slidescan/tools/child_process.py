"""A library in a process of its own, whose crash this process survives.

The C libraries that decode files may crash on a damaged or hostile one. In a child process a
segmentation fault ends that process alone, and the caller gets a `ChildEndedError`. Calls are lines
of JSON; large results lie in shared memory. No pickle: a child that a file has taken over could
only answer, not run code here.

Not `multiprocessing`: a forked child would share open libraries, a spawned one imports the main
module again, and neither may be started by a daemonic worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from slidescan.tools.shared_memory import SharedMemory

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); import runpy; "
    "runpy.run_module(sys.argv[1], run_name='__main__')"
)
"""The same modules are found as in the parent, whatever was done to its search path."""

PATIENCE_S = 10.0
"""How long a child may take to end after its pipe was closed."""

TOLD_BYTES = 2**16
"""Of what a child printed before it ended: what a pipe holds."""


MOST_S = 60.0
"""Seconds of a processor that a call may take: a file may lead a decoder into an endless loop."""

CHECK_S = 5.0


class ChildEndedError(Exception):
    """The child process ended during a call; the message says how, as "SIGSEGV"."""


class CallError(Exception):
    """The child answered with an error; the message is its."""


class Child:
    """A process that runs `module`, which calls `child_service.serve`.

    Its memory has `rooms` rooms of `room_bytes` each, for large arguments and results, and it
    answers as many calls at once. Safe to call from several threads; not to be used after a fork.
    """

    def __init__(self, module: str, rooms: int, room_bytes: int) -> None:
        """Start the process. Raises OSError or MemoryError where that is not possible."""
        self.module, self.room_bytes = module, room_bytes
        self.counted = False
        """for the owner: whether its end was noticed"""
        self._shared = SharedMemory(rooms * room_bytes)
        self._free: SimpleQueue[int] = SimpleQueue()
        for room in range(rooms):
            self._free.put(room)
        try:
            self._process = _start(module, self._shared.files)
        except BaseException:
            self._shared.close()
            raise
        self.pid = os.getpid()
        self._writing, self._number = threading.Lock(), 0
        self._waiting: dict[int, Future[Any]] = {}
        self._end: str | None = None
        self._overdue = False
        self._receiver = threading.Thread(target=self._receive, daemon=True, name=module)
        try:
            self._receiver.start()
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._close_files()
            raise
        with suppress(ChildEndedError):  # told at the first call
            self._send(sys.path)
            self._send({"memory": self._shared.address, "threads": rooms})

    @property
    def usable(self) -> bool:
        """Whether it is alive, and of this process."""
        return self._end is None and self.pid == os.getpid()

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method and wait for its result, for `MOST_S` seconds of a processor at most.

        Raises:
            ChildEndedError: the process ended before it answered, or had before.
            CallError: it answered with an error.
        """
        future: Future[Any] = Future()
        with self._writing:
            self._number += 1
            number = self._number
            self._waiting[number] = future
        try:
            self._send({"number": number, "method": method, "arguments": arguments})
            if not _done(future, CHECK_S):
                self._watch(future)
            return future.result()
        finally:
            self._waiting.pop(number, None)

    def _watch(self, future: Future[Any]) -> None:
        """Wait for an answer that takes long, and end the process where it takes too long.

        By the processor's time: a disk on the network may make anything wait.
        """
        before = processor_seconds(self._process.pid)
        while not _done(future, CHECK_S):
            used = processor_seconds(self._process.pid) - before
            if used > MOST_S * max(1, len(self._waiting)):
                self._overdue = True
                self._process.kill()

    @contextmanager
    def room(self) -> Iterator[tuple[int, memoryview]]:
        """Wait for a room of the shared memory; gives its first byte's place and the room."""
        room = self._free.get()
        start = room * self.room_bytes
        try:
            yield start, memoryview(self._shared.memory)[start : start + self.room_bytes]
        finally:
            self._free.put(room)

    def close(self) -> None:
        """End the process, unless it is that of the process which this one was forked from."""
        if self.pid != os.getpid():
            self._process.returncode = 0  # nothing to wait for
            return
        with suppress(ChildEndedError):
            self._send(None)  # not by closing the pipe, which forked processes have open as well
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if threading.current_thread() is not self._receiver:
            self._receiver.join(PATIENCE_S)
        self._close_files()

    def _close_files(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):  # the process left what was sent last unread
                    pipe.close()
        self._shared.close()

    def _send(self, message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        assert self._process.stdin is not None
        with self._writing:
            try:
                if self._end is None:
                    self._process.stdin.write(line)
                    self._process.stdin.flush()
                    return
            except (OSError, ValueError):  # a broken pipe; the receiver finds out how it ended
                pass
        self._receiver.join(PATIENCE_S)
        raise ChildEndedError(self._end or "no answer")

    def _receive(self) -> None:
        """Pass answers on until the process ends."""
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._pass_on(json.loads(line))
        except Exception:  # what a file has taken over may answer anything, and memory may be short
            self._process.kill()
        how = "no memory to hear it"
        with suppress(MemoryError):
            how = self._how()
        with self._writing:
            self._end = how
            waiting = list(self._waiting.values())
        for future in waiting:
            if not future.done():
                future.set_exception(ChildEndedError(how))

    def _pass_on(self, answer: dict[str, Any]) -> None:
        future = self._waiting.get(answer["number"])
        if future is None:
            return
        if "error" in answer:
            future.set_exception(CallError(str(answer["error"])))
        else:
            future.set_result(answer["result"])

    def _how(self) -> str:
        """How the process ended, as "SIGABRT: out of memory"."""
        how = _reason(self._process.wait())
        if self._overdue:
            return f"no answer after {MOST_S:.0f} s of a processor"
        stderr = self._process.stderr
        if stderr is None:
            return how
        os.set_blocking(stderr.fileno(), False)
        with suppress(OSError, ValueError):
            lines = (os.read(stderr.fileno(), TOLD_BYTES)).decode("utf-8", "replace").splitlines()
            if told := " ".join(" ".join(line for line in lines if line.strip())[-300:].split()):
                return f"{how}: {told}"
        return how


def processor_seconds(pid: int) -> float:
    """The time that a process has used; 0 where the system does not tell, as outside Linux."""
    if not hasattr(os, "sysconf"):  # Windows
        return 0.0
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    fields = told.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _done(future: Future[Any], timeout_s: float) -> bool:
    return bool(wait([future], timeout_s).done)


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


def _start(module: str, files: tuple[int, ...]) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise OSError("Python does not know its own executable")
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-I", "-c", BOOT, module],
        stdin=pipe,
        stdout=pipe,
        # Windows cannot make a pipe drop what nobody reads.
        stderr=pipe if os.name == "posix" else subprocess.DEVNULL,
        pass_fds=files,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # of Windows alone
    )
