"""Maps in an object store: the guarantees of the local store, with faults in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from s3 import BUCKET, SECRET, Fault, Proxy, Request

from slidescan.errors import BusyError, ConfigError, MapError, RemoteError, SlidescanError
from slidescan.geometry import Grid
from slidescan.maps import ngff
from slidescan.maps.layout import DamageError
from slidescan.maps.places import maps_below
from slidescan.maps.store import Heatmap
from slidescan.tools.objects import attempts, leases, store
from slidescan.tools.objects.store import bucket_of
from slidescan.tools.urls import Url, place_of, without_secrets

GRID = Grid((173, 113), stride=2)  # 87 x 57 cells: 3 x 2 blocks, two levels, odd edges
SETTINGS = {"model": {"name": "seed", "sha256": "ab"}, "slide": "f00d"}
MASK: NDArray[np.bool_] = np.random.default_rng(1).random(GRID.shape) < 0.4
MASK[:32, 32:] = False  # a block without tissue
NOISE = np.random.default_rng(2).integers(0, 64, GRID.shape) / 64
VALUES = np.where(MASK, NOISE, np.nan).astype(np.float32)


@pytest.fixture(autouse=True)
def _small(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngff, "LEVEL_CELLS", 64)


def blank(**changes: Any) -> Any:
    kept = {"grid": GRID, "mpp": 0.972, "mask": MASK, "settings": SETTINGS, "provenance": {}}
    return kept | changes


def fill(heatmap: Heatmap, values: NDArray[np.float32] = VALUES) -> None:
    for block in heatmap.missing():
        heatmap.write(block, values[block.slices])


def make(address: str, values: NDArray[np.float32] = VALUES, **changes: Any) -> None:
    """Scan a whole map, or go on with it."""
    with Heatmap.resume_or_create(address, **blank(**changes)) as heatmap:
        if not heatmap.complete:
            fill(heatmap, values)
            heatmap.finish({"seconds": 1.5})


def equal(address: str, values: NDArray[np.float32] = VALUES) -> bool:
    heatmap = Heatmap.open(address)
    assert heatmap.complete
    assert heatmap.whole()
    return np.array_equal(heatmap.read(heatmap.grid.cells), values, equal_nan=True)


def keys(address: str) -> list[str]:
    url = place_of(address)
    assert isinstance(url, Url)
    return [entry.key.removeprefix(f"{url.path}/") for entry in bucket_of(url).objects(url.path)]


def test_a_remote_map_has_the_same_objects_as_a_local_one(folder: str, tmp_path: Path) -> None:
    address, local = f"{folder}/map.zarr", tmp_path / "map.zarr"
    make(address)
    make(str(local))
    files = (path for path in local.rglob("*") if path.is_file())
    assert sorted(keys(address)) == sorted(path.relative_to(local).as_posix() for path in files)
    for level, shape in enumerate(Heatmap.open(local).shapes):
        cells = replace(GRID.cells, y1=shape[0], x1=shape[1])
        here, there = (Heatmap.open(each).read(cells, level) for each in (local, address))
        assert np.array_equal(here, there, equal_nan=True)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_maps_in_memory_and_below_file(scheme: str, tmp_path: Path) -> None:
    address = f"{scheme}://{tmp_path}/map.zarr" if scheme == "file" else "memory://maps/map.zarr"
    make(address)
    assert equal(address)
    assert (tmp_path / "map.zarr").exists() == (scheme == "file")


def test_a_shard_is_put_once_and_whole(folder: str, s3: Proxy) -> None:
    with Heatmap.create(f"{folder}/map.zarr", **blank()) as heatmap:
        s3.reset()
        fill(heatmap)
        puts = [each.path for each in s3.requests if each.method == "PUT" and "/0/c/" in each.path]
    assert len(puts) == len(set(puts)) == 5  # of six blocks, one has no tissue


def test_nothing_is_finished_until_the_last_request_of_finish(folder: str, s3: Proxy) -> None:
    address = f"{folder}/map.zarr"
    with Heatmap.create(address, **blank()) as heatmap:
        fill(heatmap)
        s3.reset()
        heatmap.finish({})
        written = [each for each in s3.requests if each.writes]
    assert written[-1].path.endswith("/map.zarr/zarr.json")
    assert sum(each.path.endswith("/map.zarr/zarr.json") for each in written) == 1


@pytest.mark.parametrize(
    "after", [9, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 5, 16, 23, 30))]
)
def test_whatever_request_of_making_a_map_fails_there_is_none_or_a_whole_one(
    folder: str, s3: Proxy, after: int
) -> None:
    address = f"{folder}/map.zarr"
    s3.reset(lambda request: "403" if request.number >= after else None)
    with pytest.raises(SlidescanError):
        make(address)
    s3.reset()
    with suppress(MapError):  # there is none yet
        assert not Heatmap.open(address).complete
    make(address)
    assert equal(address)


def every(n: int, fault: str) -> Fault:
    return lambda request: fault if request.number % n == 0 else None


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(every(4, "503"), id="503"),
        pytest.param(every(4, "cut"), id="cut", marks=pytest.mark.slow),
        pytest.param(every(4, "half"), id="half-an-answer", marks=pytest.mark.slow),
        pytest.param(
            lambda request: "lost" if request.number % 5 == 0 and request.writes else None,
            id="lost-answers-of-writes",
        ),
        pytest.param(every(9, "slow"), id="slow", marks=pytest.mark.slow),
    ],
)
def test_what_fails_for_a_moment_is_repeated(folder: str, s3: Proxy, fault: Fault) -> None:
    address = f"{folder}/map.zarr"
    s3.reset(fault)
    make(address)
    assert equal(address)


@pytest.mark.parametrize("fault", ["503", pytest.param("cut", marks=pytest.mark.slow)])
def test_a_store_that_fails_from_one_write_on_keeps_what_is_finished(
    folder: str, s3: Proxy, fault: str
) -> None:
    address = f"{folder}/map.zarr"
    shards: list[str] = []

    def fails(request: Request) -> str | None:
        if request.method == "PUT" and "/0/c/" in request.path and "labels" not in request.path:
            shards.append(request.path)
        return fault if len(shards) > 3 and request.writes else None

    s3.reset(fails)
    with pytest.raises(RemoteError, match=r"cannot be reached .*the same command again"):
        make(address)
    assert len(shards) <= 3 + 1 + attempts.RETRIES  # bounded
    s3.reset()
    with Heatmap.open(address, writable=True) as heatmap:
        assert not heatmap.complete
        assert sum(1 for _ in heatmap.missing()) == 2
    make(address)
    assert equal(address)


def test_a_store_without_permission_says_so_in_one_line(folder: str, s3: Proxy) -> None:
    s3.reset(lambda request: "403")
    with pytest.raises(RemoteError) as caught:
        make(f"{folder}/map.zarr")
    text = str(caught.value)
    assert text.startswith(folder)
    assert "not permitted (403 Forbidden, AccessDenied)" in text
    assert "127.0.0.1" not in text
    assert len(s3.requests) <= 3  # not repeated


def test_a_network_that_fails_while_reading_is_no_damage(folder: str, s3: Proxy) -> None:
    address = f"{folder}/map.zarr"
    make(address)
    heatmap = Heatmap.open(address)
    s3.reset(lambda request: "503")
    with pytest.raises(RemoteError):
        list(heatmap.missing())


def test_no_such_bucket(s3: Proxy) -> None:
    with pytest.raises(RemoteError, match="there is no such bucket"):
        make("s3://nowhere/map.zarr")


@pytest.mark.slow
def test_a_damaged_shard_is_scanned_again(folder: str) -> None:
    address = f"{folder}/map.zarr"
    make(address)
    url = place_of(f"{address}/0/c/1/0")
    assert isinstance(url, Url)
    content, _ = bucket_of(url).get(url.path) or (b"", "")
    bucket_of(url).put(url.path, content[:-20])
    with pytest.raises(DamageError):
        Heatmap.open(address).read(GRID.cells)
    make(address)
    assert equal(address)


def test_one_writer_at_a_time(folder: str) -> None:
    address = f"{folder}/map.zarr"
    with Heatmap.create(address, **blank()):
        with pytest.raises(BusyError, match=f"another slidescan is writing it.*{os.getpid()}"):
            Heatmap.open(address, writable=True)
        assert not Heatmap.open(address).complete  # reading needs no lease
    assert not any("lock" in key for key in keys(folder))


def test_of_many_writers_at_once_one_gets_the_map(folder: str) -> None:
    got: list[Heatmap] = []
    failed: list[SlidescanError] = []

    def attempt() -> None:
        try:
            got.append(Heatmap.resume_or_create(f"{folder}/map.zarr", **blank()))
        except SlidescanError as error:
            failed.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert all(isinstance(error, BusyError) for error in failed)
    got[0].close()


@pytest.mark.slow
def test_the_lease_of_a_killed_process_of_this_machine_is_taken_at_once(folder: str) -> None:
    code = (
        "import sys, time; from slidescan.tools.objects.leases import ObjectLease;"
        "from slidescan.tools.urls import place_of;"
        "assert ObjectLease(place_of(sys.argv[1])).acquire();"
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, f"{folder}/.map.zarr.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError):
            make(f"{folder}/map.zarr")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    make(f"{folder}/map.zarr")
    assert equal(f"{folder}/map.zarr")


@pytest.mark.slow
def test_a_lease_of_another_machine_is_taken_when_it_was_not_renewed(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = place_of(f"{folder}/.map.zarr.lock")
    assert isinstance(url, Url)
    other = {"machine": "elsewhere?1", "pid": 1, "token": "x", "beat": 1}
    bucket_of(url).put(url.path, json.dumps(other).encode())
    with pytest.raises(BusyError, match="process 1 on elsewhere"):
        make(f"{folder}/map.zarr")
    monkeypatch.setattr(leases, "age_s", lambda *_: leases.DURATION_S + 1)
    make(f"{folder}/map.zarr")
    assert equal(f"{folder}/map.zarr")


def test_who_has_lost_its_lease_writes_nothing_more(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "DURATION_S", 0.3)
    monkeypatch.setattr(leases, "HEARTBEATS", 6)
    heatmap = Heatmap.create(f"{folder}/map.zarr", **blank())
    lease = place_of(f"{folder}/.map.zarr.lock")
    assert isinstance(lease, Url)
    bucket_of(lease).put(lease.path, b'{"machine": "elsewhere", "pid": 2, "token": "other"}')
    block = next(heatmap.missing())
    held = threading.Event()
    for _ in range(100):
        if held.wait(0.02) or heatmap._lock._held_until == 0.0:  # type: ignore[union-attr]
            break
    with pytest.raises(BusyError, match="lease was lost"):
        heatmap.write(block, VALUES[block.slices])
    heatmap.close()
    assert bucket_of(lease).get(lease.path) is not None  # the other's stays


def test_a_store_that_ignores_conditions_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(bucket_of(Url("s3", BUCKET)))
    monkeypatch.setattr(kind, "create", kind.put)
    with pytest.raises(ConfigError, match="cannot keep two processes apart"):
        make(f"{folder}/map.zarr")


@pytest.mark.slow
def test_a_finished_map_stays_until_the_new_one_is_complete(folder: str) -> None:
    address, other = f"{folder}/map.zarr", {**SETTINGS, "precision": "bf16"}
    make(address)
    with pytest.raises(MapError, match=r"made with other settings .* --overwrite"):
        make(address, settings=other)
    changed = VALUES / 2
    with Heatmap.resume_or_create(address, overwrite=True, **blank(settings=other)) as heatmap:
        assert heatmap.replaces
        fill(heatmap, changed)
        assert equal(address)
        heatmap.finish({})
    assert equal(address, changed)
    assert all(key.startswith("map.zarr/") for key in keys(folder))


@pytest.mark.slow
@pytest.mark.parametrize("copies", [1, 7])
def test_a_replacement_that_is_cut_short_is_finished_by_the_next_command(
    folder: str, s3: Proxy, copies: int
) -> None:
    address, other, changed = f"{folder}/map.zarr", {**SETTINGS, "precision": "bf16"}, VALUES / 2
    make(address)
    heatmap = Heatmap.resume_or_create(address, overwrite=True, **blank(settings=other))
    fill(heatmap, changed)
    seen: list[Request] = []

    def fails(request: Request) -> str | None:
        # A copy is a PUT without a body, to the place of the map.
        if request.method == "PUT" and "/map.zarr/" in request.path and ".new" not in request.path:
            seen.append(request)
        return "403" if len(seen) > copies else None

    s3.reset(fails)
    with pytest.raises(RemoteError):
        heatmap.finish({})
    s3.reset()
    with pytest.raises(MapError, match="not a slidescan map"):  # a part of one is none
        Heatmap.open(address)
    heatmap.close()
    Heatmap.open(address, writable=True).close()
    assert equal(address, changed)
    assert all(key.startswith("map.zarr/") for key in keys(folder))


def test_what_is_no_map_is_left_alone(folder: str) -> None:
    url = place_of(f"{folder}/map.zarr/notes.txt")
    assert isinstance(url, Url)
    bucket_of(url).put(url.path, b"mine")
    with pytest.raises(MapError, match="left alone"):
        make(f"{folder}/map.zarr")
    with pytest.raises(MapError, match="whole bucket"):
        make(f"s3://{BUCKET}")
    assert bucket_of(url).get(url.path)


@pytest.mark.slow
def test_the_maps_below_an_address(folder: str) -> None:
    make(f"{folder}/b.zarr")
    make(f"{folder}/a.zarr")
    url = place_of(folder)
    assert isinstance(url, Url)
    assert [each.name for each in maps_below(url)] == ["a.zarr", "b.zarr"]
    with pytest.raises(MapError, match="neither a map nor a folder of maps"):
        maps_below(url / "empty")


def test_fsspec_takes_the_place_of_obstore(monkeypatch: pytest.MonkeyPatch, s3: Proxy) -> None:
    monkeypatch.setattr(store, "find_spec", lambda name: None)
    store.forget()
    address = "memory://fallback/map.zarr"
    with Heatmap.create(address, **blank()) as heatmap:
        fill(heatmap)
        with pytest.raises(BusyError):
            Heatmap.open(address, writable=True)
        heatmap.finish({})
    assert equal(address)
    with pytest.raises(
        ConfigError, match=r"needs obstore, which is not installed; run: .*pip install"
    ):
        Heatmap.open("s3://bucket/map.zarr")


def test_an_unknown_scheme_is_refused_in_one_line() -> None:
    for scheme in ("gopher", "github"):  # the second needs more than a name
        with pytest.raises(ConfigError, match=f"{scheme}:// is not known"):
            Heatmap.open(f"{scheme}://host/map.zarr")


def test_a_server_of_fsspec_that_does_not_answer_is_one_line() -> None:
    with pytest.raises(RemoteError, match="cannot be reached"):
        Heatmap.open("ftp://127.0.0.1:1/map.zarr")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a.svs?X-Amz-Signature=abc", "https://host/a.svs"),
        ("s3://key:secret@bucket/a.svs", "s3://..."),
        ("s3://bucket//maps//a.zarr/", "s3://bucket/maps/a.zarr"),
        ("C:/slides/a.svs", "C:/slides/a.svs"),
        ("--threads", "--threads"),
    ],
)
def test_what_is_recorded_of_an_address(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_an_address_with_credentials_is_refused_without_showing_them() -> None:
    with pytest.raises(ConfigError) as caught:
        place_of(f"s3://key:{SECRET}@bucket/a.zarr")
    assert SECRET not in str(caught.value)
