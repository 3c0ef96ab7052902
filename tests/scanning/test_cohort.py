"""Batches of slides: several processes on one folder, kills, and rows that can be trusted."""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import crashing_jobs
import maps
import processes
import pytest
import slides
from commands import ran, refused, run
from maps import TORCH
from processes import Strike
from waiting import PATIENCE_S

from slidescan.engines import engine_pool
from slidescan.maps.store import Heatmap
from slidescan.scanning import cohort, jobs
from slidescan.scanning.enrolment import Task
from slidescan.scanning.listing import Entry
from slidescan.scanning.options import Options
from slidescan.scanning.provenance import now
from slidescan.scanning.selection import Selector
from slidescan.scanning.session import Session
from slidescan.tools.atomic_files import lock, release

COUNT = 5

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small slides in two folders, two of them with equal names."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(COUNT):
        path = folder / ("a" if number < 3 else "b") / f"s{number % 4}.tif"
        path.parent.mkdir(exist_ok=True)
        slides.write_slide(path, slides.section(150, 170, number), mpp=0.972)
    return folder


@pytest.fixture(scope="module")
def alone(archive: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The maps of one process that nothing disturbed."""
    out = tmp_path_factory.mktemp("alone") / "maps"
    result = ran("heatmap", archive, "--out", out, "--model", tiny_model, *TORCH)
    assert result.stdout.count(" cells, ") == COUNT
    return out


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as file:
        return {row["map"]: row for row in csv.DictReader(file)}


def states(out: Path) -> dict[str, int]:
    return Counter(row["state"] for row in rows(out).values())


def equal(out: Path, alone: Path) -> None:
    """All maps are there, with the same bytes, and nothing else."""
    assert states(out) == {"done": COUNT}
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in alone.iterdir())
    for name in rows(alone):
        assert maps.contents(out / name) == maps.contents(alone / name)


def test_every_slide_has_a_map_and_a_row(alone: Path, archive: Path) -> None:
    found = rows(alone)
    assert sorted(found) == ["a-s0.zarr", "b-s0.zarr", "s1.zarr", "s2.zarr", "s3.zarr"]
    row = found["a-s0.zarr"]
    assert row["slide"] == str(archive / "a" / "s0.tif")
    heatmap = Heatmap.open(alone / "a-s0.zarr")
    values = heatmap.read(heatmap.grid.cells)
    assert (row["rows"], row["columns"]) == ("19", "22")
    assert int(row["scanned"]) == int(heatmap.scanned.sum())
    assert float(row["highest"]) == pytest.approx(values[heatmap.scanned].max(), abs=1e-4)
    # The ellipse of the section: 0.48 of the slide's area, of cells that are all or nothing.
    area_mm2 = 150 * 170 * (0.972e-3) ** 2
    assert 0.3 * area_mm2 < float(row["tissue_mm2"]) < 0.6 * area_mm2
    assert (row["model"], row["mpp"], row["reason"]) == ("tiny", "0.972", "")
    assert len({row["settings"] for row in found.values()}) == 1


def test_a_batch_equals_slides_scanned_alone(
    alone: Path, archive: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "map.zarr"
    ran("heatmap", archive / "b" / "s3.tif", "--out", out, "--model", tiny_model, *TORCH)
    assert maps.read(out).tobytes() == maps.read(alone / "s3.zarr").tobytes()


def test_a_second_run_scans_nothing(
    alone: Path, archive: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(alone)
    monkeypatch.delattr(Selector, "select")  # finding tissue takes most of the time
    result = ran("heatmap", archive, "--out", alone, "--model", tiny_model, *TORCH)
    assert result.stdout == "5 maps are complete already, nothing to do\n"
    assert rows(alone) == before


def test_locks_that_nobody_holds_are_removed(copied: Path, archive: Path, tiny_model: Path) -> None:
    for name in ("manifest.csv", "s1.zarr"):
        (copied / f".{name}.lock").touch()
    held = lock(copied / "s2.zarr")
    ran("heatmap", archive, "--out", copied, "--model", tiny_model, *TORCH)
    assert [path.name for path in copied.glob(".*")] == [".s2.zarr.lock"]
    release(held)


@posix
def test_two_processes_share_the_slides(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    arguments = ("heatmap", archive, "--out", out, "--model", tiny_model, *TORCH)
    logs = [tmp_path / "1.log", tmp_path / "2.log"]
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda log: processes.slidescan(*arguments, log=log), logs))
    assert set(codes) <= {0, 75}
    text = "".join(log.read_text() for log in logs)
    assert "Error" not in text
    assert text.count(" cells, ") == COUNT  # each slide was scanned once
    equal_values(out, alone)


def equal_values(out: Path, alone: Path) -> None:
    """The maps are equal, whatever the size of their blocks."""
    assert states(out) == {"done": COUNT}
    for name in rows(alone):
        assert maps.read(out / name).tobytes() == maps.read(alone / name).tobytes()


@posix
@pytest.mark.parametrize("call", [1, 4])
def test_a_killed_process_is_made_up_for(
    call: int, archive: Path, alone: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Another run takes the dead process' slides at once, and the manifest was never half."""
    out, log = tmp_path / "maps", tmp_path / "log"
    arguments = ("heatmap", archive, "--out", out, "--model", tiny_model, *TORCH)
    strike = Strike("slidescan.maps.store:Heatmap.write", call)
    assert processes.slidescan(*arguments, log=log, strike=strike) == -signal.SIGKILL
    assert sum(states(out).values()) == COUNT  # done or waiting
    assert processes.slidescan(*arguments, log=log) == 0
    equal_values(out, alone)
    assert not list(out.glob(".*"))


@posix
def test_a_batch_that_is_told_to_stop(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "maps", tmp_path / "log"
    arguments = ("heatmap", archive, "--out", out, "--model", tiny_model, *TORCH)
    strike = Strike("slidescan.maps.store:Heatmap.write", 2, signal=signal.SIGTERM)
    assert processes.slidescan(*arguments, log=log, strike=strike) == 1
    assert log.read_text().splitlines()[-1].startswith("Error: interrupted; finished blocks")
    assert not list(out.glob(".*"))  # neither locks nor leases
    assert set(states(out)) <= {"done", "waiting"}
    assert processes.slidescan(*arguments, log=log) == 0
    equal_values(out, alone)


@pytest.fixture
def copied(alone: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(alone, tmp_path / "maps"))


def test_a_finished_row_stays_whatever_a_later_attempt_says(
    copied: Path, archive: Path, tiny_model: Path
) -> None:
    before = rows(copied)
    command = ("heatmap", archive, "--out", copied, "--model", tiny_model, *TORCH)
    for flags in (("--mpp", "0.5"), ("--mpp", "0.0001"), ("--no-tissue-mask",)):
        result = run(*command, *flags)
        assert result.exit_code == 1
        assert result.stderr.count("Error: ") == COUNT + 1
        assert rows(copied) == before


def test_a_bug_in_one_slide_is_logged(
    copied: Path, archive: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Session, "fill", broken)
    command = ("heatmap", archive, "--out", copied, "--model", tiny_model, *TORCH, "--overwrite")
    before = rows(copied)
    assert run(*command).exit_code == 1
    assert rows(copied) == before  # --overwrite keeps a map until the new one is finished
    for name in before:
        shutil.rmtree(copied / name)
    (copied / "slidescan.log").unlink()
    result = run(*command)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert "RuntimeError: a bug; see slidescan.log" in result.stderr
    assert (copied / "slidescan.log").read_text().count("Traceback") == COUNT
    assert states(copied) == {"failed": COUNT}
    monkeypatch.undo()
    assert ran(*command, "--retry", "failed").stdout.count(" cells, ") == COUNT
    assert states(copied) == {"done": COUNT}


def test_what_is_wrong_with_one_slide_stops_no_other(
    archive: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text(
        "slide,mpp,group\n"
        f"{archive}/a/s0.tif,,A\n"
        f"{archive}/a/s1.tif,half,B\n"
        f"{archive}/a/gone.tif,,C\n"
        f"{archive}/a/s2.tif,0.5,D\n"
    )
    out = tmp_path / "maps"
    command = ("heatmap", tmp_path / "list.csv", "--out", out, "--model", tiny_model, *TORCH)
    result = run(*command)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: 2 of 4 slides failed")
    found = rows(out)
    assert {name: row["state"] for name, row in found.items()} == {
        "s0.zarr": "done",
        "s1.zarr": "failed",
        "gone.zarr": "missing",
        "s2.zarr": "done",
    }
    assert {row["group"] for row in found.values()} == set("ABCD")
    assert found["s2.zarr"]["mpp"] == "0.5"
    assert "'half' in row 3" in found["s1.zarr"]["reason"]
    again = run(*command, "--retry", "missing")
    assert again.stderr.splitlines()[-1].startswith("Error: 1 of 1 slides failed")


def test_a_name_that_belongs_to_another_slide(
    copied: Path, archive: Path, tiny_model: Path, tmp_path: Path
) -> None:
    before = rows(copied)
    (tmp_path / "list.csv").write_text(f"slide,name\n{archive}/b/s3.tif,s1\n")
    command = ("heatmap", tmp_path / "list.csv", "--out", copied, "--model", tiny_model, *TORCH)
    result = run(*command)
    assert f"is the map of {archive}/a/s1.tif" in result.stderr
    assert rows(copied) == before


def test_a_map_that_is_being_written_is_left_to_its_writer(
    archive: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """By a process that scans this slide alone; exit code 75 says that something is left."""
    out = tmp_path / "maps"
    out.mkdir()
    held = lock(out / "s1.zarr")
    command = ("heatmap", archive / "a", "--out", out, "--model", tiny_model, *TORCH)
    result = run(*command)
    assert result.exit_code == 75  # EX_TEMPFAIL
    assert "1 slide is left to other processes" in result.stdout
    assert result.stderr == ""
    assert states(out) == {"done": 2, "waiting": 1}
    release(held)
    ran(*command)
    assert states(out) == {"done": 3}


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes")
def test_a_name_that_is_no_utf8(tiny_model: Path, tmp_path: Path) -> None:
    slide = tmp_path / os.fsdecode(b"schnitt-\xe4.tif")
    slides.write_slide(tmp_path / "plain.tif", slides.section(120, 150), mpp=0.972)
    try:
        (tmp_path / "plain.tif").rename(slide)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    command = ("heatmap", slide, "--out", tmp_path / "maps", "--model", tiny_model, *TORCH)
    ran(*command)
    assert "complete already" in ran(*command).stdout
    assert b"schnitt-\xe4.tif" in (tmp_path / "maps" / "manifest.csv").read_bytes()
    assert "1 done" in ran("status", tmp_path / "maps").stdout


def test_slides_at_once_share_one_engine_that_takes_one_call(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch on the CPU: slides are in progress at the same time, calls to the network never."""
    running, most, guard = 0, 0, threading.Lock()
    made: list[object] = []

    def counted(pool: engine_pool.EnginePool, pixels: object) -> object:
        assert pool.at_once == 1
        with pool._borrowed() as engine:
            nonlocal running, most
            with guard:
                running += 1
                most = max(most, running)
            made.append(engine)
            result = engine(pixels)  # type: ignore[arg-type]
            with guard:
                running -= 1
        return result

    monkeypatch.setattr(engine_pool.EnginePool, "__call__", counted)
    monkeypatch.setattr(engine_pool.EnginePool, "select", lambda pool, px, _: counted(pool, px))
    out = tmp_path / "maps"
    ran("heatmap", archive, "--out", out, "--model", tiny_model, *TORCH)
    assert most == 1
    assert len(set(map(id, made))) == 1
    equal(out, alone)


@pytest.mark.slow
def test_jobs_are_processes_that_share_the_slides(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    bad = tmp_path / "bad.tif"
    bad.write_text("no slide")
    command = ("heatmap", archive, bad, "--out", out, "--model", tiny_model, *TORCH)
    result = run(*command, "--jobs", "2")
    assert result.exit_code == 1
    first, last = result.stderr.splitlines()
    assert first.startswith(f"Error: {bad}: ")
    assert last.startswith("Error: 1 of 6 slides failed")
    assert result.stdout.count(" cells, ") == COUNT
    assert states(out) == {"done": COUNT, "failed": 1}
    for name in rows(alone):
        assert maps.contents(out / name) == maps.contents(alone / name)
    assert cohort.LEASES not in {path.name for path in out.iterdir()}


@posix
@pytest.mark.slow
def test_a_process_of_jobs_that_dies_costs_the_slide_that_kills_it(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_work", crashing_jobs.work)
    sound, deadly = (archive / "a" / name for name in ("s0.tif", "s1.tif"))
    monkeypatch.setenv("SLIDESCAN_TEST_CRASH", deadly.stem)
    out = tmp_path / "maps"
    command = ("heatmap", sound, deadly, "--out", out, "--model", tiny_model, *TORCH)
    result = run(*command, "--jobs", "2")
    assert result.exit_code == 1
    first, _ = result.stderr.splitlines()
    assert first == f"Error: {deadly}: a process that scanned it alone died (SIGSEGV)"
    assert {name: row["state"] for name, row in rows(out).items()} == {
        "s0.zarr": "done",
        "s1.zarr": "failed",
    }
    assert "SIGSEGV" in rows(out)["s1.zarr"]["reason"]
    ran(*command)
    for slide, name in ((sound, "s0.zarr"), (deadly, "s1.zarr")):
        (expected,) = (n for n, row in rows(alone).items() if row["slide"] == str(slide))
        assert maps.contents(out / name) == maps.contents(alone / expected)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_of_jobs_end_with_the_command(
    how: signal.Signals, archive: Path, alone: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """However it ends; and the same command resumes."""
    out, log = tmp_path / "maps", tmp_path / "log"
    command = ("heatmap", archive, "--out", out, "--model", tiny_model, *TORCH)
    # Two processes, one that multiprocessing needs, and the first that reads a slide.
    processes.stop_when(lambda count: count > 3, *command, "--jobs", "2", log=log, how=how)
    ran(*command)
    equal_values(out, alone)


def test_a_process_of_jobs_that_dies_while_it_asks_leaves_its_slide_to_another(
    archive: Path, tmp_path: Path
) -> None:
    """What it is answered goes into a pipe that nobody reads."""
    task = Task(Entry(archive / "a" / "s0.tif"), "s0.zarr")
    share = jobs._Share(tmp_path, now(), Options(models=("tiny",)), "")
    pool = jobs._Processes(share, [task], pytest.fail)
    ours, theirs = multiprocessing.Pipe()
    died = jobs._Process(SimpleNamespace(exitcode=-9, join=lambda: None), ours)
    pool._running[ours] = died
    theirs.send(None)
    theirs.close()
    assert [pool._step(), pool._step()] == [None, died]
    assert died.begun == {"s0.zarr": task}


@posix
@pytest.mark.slow
def test_a_process_of_jobs_that_waits_for_a_slide_ends_with_the_batch(
    tiny_model: Path, tmp_path: Path
) -> None:
    """It has asked for one, and the batch is stopped before it answers."""
    share = jobs._Share(tmp_path, now(), Options(models=(str(tiny_model),)), "")
    with jobs._Processes(share, [], pytest.fail) as pool:
        pool._start()
        ((ours, waiting),) = pool._running.items()
        assert ours.poll(5 * PATIENCE_S)
    assert waiting.process.exitcode == 0


def test_shards_are_all_of_the_slides(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    command = ("heatmap", archive, "--out", out, "--model", tiny_model, *TORCH)
    counts = [ran(*command, "--shard", f"{i}/3").stdout.count(" cells, ") for i in (1, 2, 3)]
    assert counts == [2, 2, 1]
    equal(out, alone)
    for wrong in ("0/3", "4/3", "3", "a/b"):
        assert run(*command, "--shard", wrong).exit_code == 2
    refused(run(*command, "--shard", "1/3", "--model", "nomodel"), "nomodel")
