"""Leases among processes that share a folder."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from slidescan.errors import WriteError
from slidescan.tools import leases
from slidescan.tools.leases import Leases, holders

ELSEWHERE = "filelock/2\npid={pid}\nhost=node7\nmode=lease\ntoken={token}\nduration={duration}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".leases"


def _hold_and_die(folder: Path) -> None:
    held = Leases(folder)
    held.__enter__()
    assert held.claim("a")
    os._exit(9)


def test_one_holder_at_a_time(folder: Path) -> None:
    with Leases(folder) as mine, Leases(folder) as other:
        assert mine.claim("a")
        assert not other.claim("a")
        assert other.claim("b")
        assert {name: each.pid for name, each in holders(folder).items()} == {
            "a": os.getpid(),
            "b": os.getpid(),
        }
        mine.release("a")
        assert other.claim("a")
    assert not folder.exists()
    assert holders(folder) == {}


@pytest.mark.parametrize("looks", ["mkdir", "open"])
def test_a_folder_that_others_remove_as_they_end(
    looks: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two looks of filelock at it."""
    real, left = getattr(os, looks), [1, 2, 3]

    def look(path: str | Path, *arguments: object, **named: object) -> object:
        if Path(path) not in (folder, folder / "a.lease") or not left:
            return real(path, *arguments, **named)
        left.pop()
        try:
            folder.rmdir()
            if looks == "mkdir":
                raise FileExistsError
            return real(path, *arguments, **named)
        finally:
            assert not folder.exists()

    with Leases(folder) as mine:
        monkeypatch.setattr(os, looks, look)
        assert mine.claim("a")
    assert left == []


def test_a_file_in_place_of_the_folder_is_an_error(folder: Path) -> None:
    folder.touch()
    with Leases(folder) as mine, pytest.raises(WriteError, match="cannot be written"):
        mine.claim("a")


def test_a_holder_that_died_is_succeeded_at_once(folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 9
    with Leases(folder) as mine:
        assert mine.claim("a")


def test_a_lease_that_lost_its_content_is_succeeded_after_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a power failure leaves it."""
    monkeypatch.setattr(leases, "DURATION_S", 0.3)
    with Leases(folder) as mine:
        (folder / "a.lease").touch()
        assert not mine.claim("a")
        assert mine.wait(["a"], poll_s=0.05) == []
        assert mine.claim("a")


def test_what_a_process_left_that_died_taking_a_lease_goes_with_the_last(folder: Path) -> None:
    with Leases(folder):
        (folder / f"a.lease.break.31015.{'4a' * 16}").touch()
        with Leases(folder) as other:
            assert other.claim("b")
            with Leases(folder):
                pass
            assert folder.exists()
    assert not folder.exists()


def test_a_machine_that_gives_no_sign_is_succeeded_after_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "DURATION_S", 0.5)
    with Leases(folder) as mine:
        text = ELSEWHERE.format(pid=7, token="0" * 32, duration=0.5)
        (folder / "a.lease").write_text(text)
        assert holders(folder)["a"].host == "node7"
        assert not mine.claim("a")
        assert mine.wait(["a"], poll_s=0.05) == []
        assert mine.claim("a")


def test_a_machine_that_gives_signs_keeps_its_lease(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "DURATION_S", 30)
    with Leases(folder) as mine:
        lease = folder / "a.lease"
        lease.write_text(ELSEWHERE.format(pid=7, token="0" * 32, duration=30.0))
        assert not mine.claim("a")
        beat = threading.Timer(0.2, os.utime, (lease,))
        beat.start()
        assert mine.wait(["a"], poll_s=0.02) == ["a"]
        beat.join()
        assert not mine.claim("a")
        lease.unlink()
        assert mine.wait(["a"], poll_s=0.02) == []
        assert mine.claim("a")
