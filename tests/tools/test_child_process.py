"""A child process: its answers, its errors, and how its end is told."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from subprocess import Popen

import pytest

from slidescan.tools import child_process
from slidescan.tools.child_process import CallError, Child, ChildEndedError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit it")


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("odd_child", rooms=3, room_bytes=1000)
    yield child
    child.close()


def test_threads_get_their_own_answers_and_rooms(child: Child) -> None:
    def work(value: int) -> bool:
        for _ in range(20):
            with child.room() as (start, room):
                size = 100 + value
                assert child.call("fill", start=start, size=size, value=value) == size
                if bytes(room[:size]) != bytes([value]) * size:
                    return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_an_error_is_passed_on_and_the_child_stays(child: Child) -> None:
    with pytest.raises(CallError, match=r"^because$"):
        child.call("refuse", why="because")
    assert child.call("getpid") != os.getpid()
    assert child.usable


def test_what_a_library_prints_disturbs_nothing(child: Child) -> None:
    """A megabyte on standard output, that nobody reads."""
    assert child.call("print_much") == 1


@pytest.mark.parametrize(
    ("method", "arguments", "how"),
    [
        ("crash", {}, "^SIGSEGV$"),
        ("crash", {"say": "GLib-ERROR:\n no memory\n"}, "^SIGSEGV: GLib-ERROR: no memory$"),
        ("bug", {}, "^exit code 1: ZeroDivisionError: "),
        ("garbage", {}, "^SIGKILL, perhaps for want of memory$"),
        pytest.param("take_memory", {}, "^exit code 1: MemoryError", marks=linux),
    ],
)
def test_its_end_is_told_to_all_who_wait(
    child: Child, method: str, arguments: dict[str, str], how: str
) -> None:
    with pytest.raises(ChildEndedError, match=how):
        child.call(method, **arguments)
    with pytest.raises(ChildEndedError, match=how):
        child.call("getpid")
    assert not child.usable


def test_an_answer_that_finds_no_memory_ends_it(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nobody would hear its answers any more, and calls would wait for ever."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Child, "_pass_on", fail)
    with pytest.raises(ChildEndedError, match="SIGKILL"):
        child.call("getpid")
    assert not child.usable


def test_without_memory_for_its_thread_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Popen[bytes]] = []
    real = child_process._start

    def start(module: str, files: tuple[int, ...]) -> Popen[bytes]:
        started.append(real(module, files))
        return started[0]

    def fail(_: threading.Thread) -> None:
        raise MemoryError

    monkeypatch.setattr(child_process, "_start", start)
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(MemoryError):
        Child("odd_child", rooms=1, room_bytes=1)
    (process,) = started
    assert process.returncode == -signal.SIGKILL
    assert all(pipe.closed for pipe in (process.stdin, process.stdout, process.stderr) if pipe)


@linux
def test_an_endless_loop_is_ended(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "MOST_S", 0.5)
    monkeypatch.setattr(child_process, "CHECK_S", 0.05)
    with pytest.raises(ChildEndedError, match="no answer after 0 s of a processor"):
        child.call("spin")
    assert not child.usable


def test_a_module_that_does_not_exist() -> None:
    child = Child("no_such_module", rooms=1, room_bytes=1)
    with pytest.raises(ChildEndedError, match=r"exit code 1: .*No module named no_such_module"):
        child.call("getpid")
    child.close()


def test_without_files_in_memory_a_temporary_file_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    child = Child("odd_child", rooms=1, room_bytes=5000)
    with child.room() as (start, room):
        assert child.call("fill", start=start, size=5000, value=7) == 5000
        assert bytes(room) == bytes([7]) * 5000
    child.close()
