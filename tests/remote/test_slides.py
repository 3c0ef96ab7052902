"""Slides by their addresses: fetched once, gone on with, checked, and kept within bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from s3 import Fault, Proxy, Request

from slidescan.errors import ConfigError, RemoteError, SlideError, WriteError
from slidescan.slides import staging
from slidescan.slides.staging import GB, Stage
from slidescan.tools import web_files
from slidescan.tools.objects.store import bucket_of
from slidescan.tools.urls import Url, place_of

CONTENT = os.urandom(3_000_000)


def url_of(text: str) -> Url:
    url = place_of(text)
    assert isinstance(url, Url)
    return url


def upload(address: str, content: bytes = CONTENT) -> Url:
    url = url_of(address)
    bucket_of(url).put(url.path, content)
    return url


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "cache", 0.1)


def fetched(stage: Stage, url: Url) -> bytes:
    with stage.local(url) as path:
        assert path.name == url.name
        return path.read_bytes()


def half_and_then_nothing(request: Request) -> str | None:
    return {1: None, 2: "half"}.get(request.number, "503")


def gets(s3: Proxy) -> list[Request]:
    return [request for request in s3.requests if request.method == "GET"]


def test_a_slide_is_fetched_once(folder: str, s3: Proxy, stage: Stage) -> None:
    url = upload(f"{folder}/slide.svs")
    s3.reset()
    assert fetched(stage, url) == CONTENT
    assert len(gets(s3)) == 1
    s3.reset()
    assert fetched(stage, url) == CONTENT
    assert s3.kinds() == {"HEAD": 1}  # size and tag are as before


def test_a_slide_that_was_replaced_is_fetched_anew(folder: str, stage: Stage) -> None:
    url = upload(f"{folder}/slide.svs")
    fetched(stage, url)
    upload(f"{folder}/slide.svs", CONTENT[::-1])  # of the same size
    assert fetched(stage, url) == CONTENT[::-1]


@pytest.mark.parametrize("fault", ["half", "503", "cut"])
def test_a_fetch_that_is_interrupted_goes_on_where_it_was(
    folder: str, s3: Proxy, stage: Stage, fault: str
) -> None:
    url = upload(f"{folder}/slide.svs")
    s3.reset(lambda request: fault if request.number == 2 else None)
    assert fetched(stage, url) == CONTENT
    assert s3.received < 1.6 * len(CONTENT)


def test_a_fetch_is_gone_on_with_by_the_next_process(
    folder: str, s3: Proxy, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "ATTEMPTS", 1)
    url = upload(f"{folder}/slide.svs")
    s3.reset(half_and_then_nothing)
    with pytest.raises(RemoteError):
        fetched(stage, url)
    (part,) = stage.folder.glob("*/part")
    assert 0 < part.stat().st_size < len(CONTENT)
    assert not list(stage.folder.glob("*/slide.svs"))  # nothing half-fetched has the slide's name
    s3.reset()
    assert fetched(Stage(stage.folder, 0.1), url) == CONTENT
    assert s3.received < 0.6 * len(CONTENT)


def test_a_part_of_another_version_is_thrown_away(
    folder: str, s3: Proxy, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "ATTEMPTS", 1)
    url = upload(f"{folder}/slide.svs")
    s3.reset(half_and_then_nothing)
    with pytest.raises(RemoteError):
        fetched(stage, url)
    s3.reset()
    upload(f"{folder}/slide.svs", CONTENT[::-1])
    assert fetched(stage, url) == CONTENT[::-1]


def test_a_slide_that_changes_while_it_is_fetched_is_refused(
    folder: str, s3: Proxy, stage: Stage
) -> None:
    url = upload(f"{folder}/slide.svs")
    replaced = threading.Event()

    def replace(request: Request) -> None:
        if request.method == "GET" and not replaced.is_set():
            replaced.set()
            s3.fault = lambda request: None
            upload(f"{folder}/slide.svs", CONTENT[::-1])

    s3.reset(replace)
    with pytest.raises(SlideError, match="the file changed meanwhile"):
        fetched(stage, url)
    assert fetched(stage, url) == CONTENT[::-1]


def test_what_was_not_used_for_longest_leaves(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, 7e6 / GB)  # room for two
    one, two, three = (upload(f"{folder}/{name}.svs") for name in ("one", "two", "three"))
    for url in (one, two, one):
        fetched(stage, url)
        time.sleep(0.02)  # the clock of a file system ticks slowly
    fetched(stage, three)
    assert sorted(path.name for path in tmp_path.glob("*/*.svs")) == ["one.svs", "three.svs"]


def test_a_slide_in_use_stays_and_is_waited_for(folder: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, 4e6 / GB)  # room for one
    one, two = upload(f"{folder}/one.svs"), upload(f"{folder}/two.svs")
    done = threading.Event()
    with stage.local(one) as path:
        stage.prefetch(two)  # does not wait, and is no error
        waiting = threading.Thread(target=lambda: (fetched(stage, two), done.set()))
        waiting.start()
        assert not done.wait(0.3)
        assert path.read_bytes() == CONTENT
    waiting.join(20)
    assert done.is_set()
    assert [path.name for path in tmp_path.glob("*/*.svs")] == ["two.svs"]


def test_the_mark_of_a_process_that_ended_does_not_count(folder: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, 4e6 / GB)
    one, two = upload(f"{folder}/one.svs"), upload(f"{folder}/two.svs")
    code = (
        "import os, sys; from slidescan.slides.staging import *\n"
        "from slidescan.tools.urls import *\n"
        "used = Stage(Path(sys.argv[1]), 1).local(place_of(sys.argv[2]))\n"
        "used.__enter__(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path, str(one)], check=True)
    assert list(tmp_path.glob("*/in-use-*"))
    assert fetched(stage, two) == CONTENT


def test_a_folder_that_is_too_small_is_one_line(folder: str, tmp_path: Path) -> None:
    url = upload(f"{folder}/slide.svs")
    with pytest.raises(WriteError, match=r"a slide of 0.003 GB does not fit .*--slide-cache-gb"):
        fetched(Stage(tmp_path, 1e6 / GB), url)


def test_a_full_disk_is_one_line(
    folder: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(f"{folder}/slide.svs")
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(staging, "WAIT_S", 1.0)
    with pytest.raises(WriteError, match=r"disk full, 0.002 GB are missing .*--slide-cache"):
        fetched(stage, url)


@pytest.mark.slow
def test_processes_that_fetch_the_same_slide_fetch_it_once(
    folder: str, s3: Proxy, stage: Stage
) -> None:
    url = upload(f"{folder}/slide.svs")
    s3.reset(lambda request: "slow" if request.method == "GET" else None)
    code = (
        "import sys; from slidescan.slides.staging import *; from slidescan.tools.urls import *\n"
        "used = Stage(Path(sys.argv[1]), 1).local(place_of(sys.argv[2])); path = used.__enter__()\n"
        "assert path.stat().st_size == 3_000_000"
    )
    command = [sys.executable, "-c", code, str(stage.folder), str(url)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(gets(s3)) == 1


@pytest.mark.parametrize("name", ["slide.mrxs", "IM0001.dcm", "slide.vms"])
def test_slides_of_several_files_are_refused(folder: str, stage: Stage, name: str) -> None:
    with pytest.raises(SlideError, match="a slide of several files"):
        fetched(stage, url_of(f"{folder}/{name}"))


def test_no_such_slide(folder: str, stage: Stage) -> None:
    with pytest.raises(SlideError, match="no such file"):
        fetched(stage, url_of(f"{folder}/slide.svs"))


def test_the_limit_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIDESCAN_SLIDE_CACHE", str(tmp_path))
    monkeypatch.setenv("SLIDESCAN_SLIDE_CACHE_GB", "2.5")
    assert (Stage().folder, Stage().limit_bytes) == (tmp_path, 2_500_000_000)
    monkeypatch.setenv("SLIDESCAN_SLIDE_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="SLIDESCAN_SLIDE_CACHE_GB=much: expected gigabytes"):
        Stage()


def test_the_next_slide_is_fetched_while_one_is_used(folder: str, stage: Stage) -> None:
    urls = [upload(f"{folder}/{name}.svs") for name in ("one", "two")]
    ahead = stage.ahead(iter(urls), lambda url: url)
    assert next(ahead) == urls[0]
    for _ in range(200):
        if list(stage.folder.glob("*/two.svs")):
            break
        time.sleep(0.02)
    assert list(stage.folder.glob("*/two.svs"))
    assert list(ahead) == [urls[1]]


def test_items_without_addresses_are_not_taken_early(stage: Stage) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            taken.append(number)
            yield number

    ahead = stage.ahead(items(), lambda _: Path("slide.svs"))
    assert next(ahead) == 0
    assert taken == [0]
    assert list(ahead) == [1, 2]


class Web:
    """A web server with one file, which knows ranges or does not."""

    def __init__(self, ranges: bool) -> None:
        self.ranges, self.tag, self.asked = ranges, '"1"', list[str]()
        self.fault: Fault = lambda request: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:  # http.server's name
                outer.asked.append(self.path)
                fault = outer.fault(Request(len(outer.asked), "GET", self.path))
                if fault == "503" or not self.path.startswith("/slide%20a.svs?"):
                    self.send_error(503 if fault else 404)
                    return
                start, end = 0, len(CONTENT)
                wanted = self.headers.get("Range")
                if wanted and outer.ranges:
                    first, _, last = wanted.removeprefix("bytes=").partition("-")
                    start, end = int(first), int(last) + 1 if last else end
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(CONTENT)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(end - start))
                self.send_header("ETag", outer.tag)
                self.end_headers()
                part = CONTENT[start:end]
                self.wfile.write(part[: len(part) // 2] if fault == "half" else part)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None: ...

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> Url:
        port = self.server.server_address[1]
        return url_of(f"http://127.0.0.1:{port}/slide%20a.svs?signature=secret")


@pytest.fixture(params=[True, False], ids=["ranges", "no-ranges"])
def web(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(web_files, "FIRST_WAIT_S", 0.005)
    found = Web(request.param)
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_slide_of_a_web_server_whose_connection_is_cut(web: Web, stage: Stage) -> None:
    web.fault = lambda request: {2: "half", 3: "503"}.get(request.number)
    assert fetched(stage, web.url) == CONTENT
    assert web.url.name == "slide a.svs"
    recorded = (stage.folder / next(iter(stage.folder.iterdir())).name / "source.json").read_text()
    assert "secret" not in recorded
    assert all("signature=secret" in path for path in web.asked)


def test_a_web_server_that_fails_says_so_in_one_line(web: Web, stage: Stage) -> None:
    web.fault = lambda request: "503"
    with pytest.raises(RemoteError, match="503 Service Unavailable, after 5 retries") as caught:
        fetched(stage, web.url)
    assert "secret" not in str(caught.value)
    web.fault = lambda request: None
    with pytest.raises(RemoteError, match="no such file"):
        fetched(stage, url_of(str(web.url).replace("%20a", "")))
