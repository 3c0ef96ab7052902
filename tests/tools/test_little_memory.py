"""Threads where there is no memory for one, and what an event loop logs of it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections import Counter

import pytest

from slidescan.tools import little_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit it")

START = """
import os, resource, signal, sys, threading
from slidescan.tools import little_memory

stack = 8 * 2**20
threading.stack_size(stack)
if sys.argv[1] == "ask":
    little_memory.ask_before_threads()
for more in range(0, 2**18, 2**13):
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(int(sys.argv[2]))
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
that takes longer than some seconds."""

WAITED = "-14"


def ends(how: str, seconds: int) -> Counter[str]:
    command = [sys.executable, "-c", START, how, str(seconds)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return Counter(found.stdout.split())


def test_a_thread_without_memory_is_an_error() -> None:
    assert ends("ask", 60) == {"1": 32}


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="was not tried")
def test_python_itself_still_waits_for_ever() -> None:
    """Once it does not (CPython's issue 140746), the module is of no use any more."""
    assert ends("start", 1)[WAITED] > 0


def test_threads_start_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)  # undone at the end
    little_memory.ask_before_threads()
    once = threading.Thread.start
    little_memory.ask_before_threads()
    assert threading.Thread.start is once
    done = threading.Event()
    thread = threading.Thread(target=done.set)
    thread.start()
    thread.join()
    assert done.is_set()


def test_an_event_loop_without_memory_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zarr's loop hands its errors to the caller and logs them; other errors are told in full."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
    little_memory.log_no_lack_of_memory()
    loop = asyncio.new_event_loop()
    try:
        for error in (MemoryError(), RuntimeError("can't start new thread")):
            loop.call_exception_handler({"message": "in a callback", "exception": error})
        assert caplog.text == ""
        loop.call_exception_handler({"message": "in a callback", "exception": ValueError("a bug")})
        loop.call_exception_handler({"message": "slow"})
    finally:
        loop.close()
    assert "ValueError: a bug" in caplog.text
    assert "slow" in caplog.text
