"""The child's side of `child_process`: answers calls until the parent ends.

It imports little, so that a child starts in less than a tenth of a second.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from slidescan.tools.little_memory import ask_before_threads
from slidescan.tools.shared_memory import attach

MOST_BYTES = 8 * 2**30
"""Of a child's own memory. A few kB of a file can ask for any amount, and the system might end the
scan instead of the child."""

Methods = dict[str, Callable[..., Any]]
"""What a child can be asked for; arguments and results are JSON."""


class AnswerError(Exception):
    """The answer to a call is an error; the message is for the caller."""


def serve(prepare: Callable[[memoryview], Methods]) -> None:
    """Answer calls from standard input on standard output, several at once.

    `prepare` gets the memory that is shared with the parent.
    """
    # Ctrl-C and a scheduler's signals reach all processes; the parent decides and closes the pipe.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    limit_memory(MOST_BYTES)
    _limit("RLIMIT_CORE", 0)  # what a crash leaves
    ask_before_threads()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    if os.name == "posix":
        os.set_blocking(2, False)  # nobody reads it until the process has ended
    settings = json.loads(sys.stdin.buffer.readline())
    methods = prepare(memoryview(_attached(settings)))
    writing = threading.Lock()

    def answer(call: dict[str, Any]) -> None:
        try:
            found = {"result": methods[call["method"]](**call["arguments"])}
        except AnswerError as error:
            found = {"error": str(error)}
        line = json.dumps({"number": call["number"], **found}).encode() + b"\n"
        with writing:
            answers.write(line)
            answers.flush()

    pool = ThreadPoolExecutor(settings["threads"])
    for line in sys.stdin.buffer:
        call = json.loads(line)
        if call is None:
            break
        pool.submit(_or_end, answer, call)
    os._exit(0)  # the parent ends this process or has ended; calls in progress are of no use


def _attached(settings: dict[str, Any]) -> mmap.mmap:
    return attach(settings["memory"])


def _or_end(answer: Callable[[dict[str, Any]], None], call: dict[str, Any]) -> None:
    """End the process on a bug: its caller would wait for ever."""
    try:
        answer(call)
    except BaseException as error:
        with suppress(OSError):  # what libraries printed may fill the pipe
            os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        os._exit(1)


def limit_memory(most_bytes: int) -> None:
    """End at so much memory instead of taking the machine's; a later task may have another limit.

    Python and libraries raise MemoryError or std::bad_alloc then. Windows has no such limit.
    """
    _limit("RLIMIT_DATA", min(most_bytes, MOST_BYTES))


def _limit(name: str, most: int) -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    kind = getattr(resource, name)
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(kind, (most, hard))
