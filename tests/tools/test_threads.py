"""Threads where there is no memory for one."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter

import pytest

from slidescan.tools import threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit it")

START = """
import os, resource, signal, sys, threading
from slidescan.tools import threads

stack = 8 * 2**20
threading.stack_size(stack)
if sys.argv[1] == "ask":
    threads.ask_for_memory_first()
for more in range(0, 2**18, 2**13):
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.setitimer(signal.ITIMER_REAL, 1)
        pages = int(open("/proc/self/statm").read().split()[0])
        most = pages * resource.getpagesize() + stack + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        try:
            threading.Thread(target=os.getpid).start()
        except (MemoryError, RuntimeError):
            os._exit(1)
        os._exit(0)
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status))
"""
"""Starts a thread with a stack's memory and 0 to 256 kB more; prints 1 for an error, -14 for a wait
without end."""

WAITED = "-14"


def ends(how: str) -> Counter[str]:
    found = subprocess.run(
        [sys.executable, "-c", START, how], capture_output=True, text=True, check=True
    )
    return Counter(found.stdout.split())


def test_a_thread_without_memory_is_an_error() -> None:
    assert ends("ask") == {"1": 32}


@pytest.mark.slow
def test_python_itself_still_waits_for_ever() -> None:
    """Once it does not (CPython's issue 140746), the module is of no use any more."""
    assert ends("start")[WAITED] > 0


def test_threads_start_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)  # undone at the end
    threads.ask_for_memory_first()
    once = threading.Thread.start
    threads.ask_for_memory_first()
    assert threading.Thread.start is once
    done = threading.Event()
    thread = threading.Thread(target=done.set)
    thread.start()
    thread.join()
    assert done.is_set()
