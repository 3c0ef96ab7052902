"""`slidescan view`: what it refuses, what it prints, and a server of its own."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import maps
import pytest
from commands import ran, refused, run
from viewer_processes import serving_process
from viewing import begin, finish
from waiting import wait_until

from slidescan.commands import beside
from slidescan.commands.checks import is_map
from slidescan.viewer import serving


@pytest.fixture(autouse=True)
def _printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is served, and no browser is opened."""
    monkeypatch.setattr(serving, "serve", lambda app, listening, state: listening.close())
    monkeypatch.setattr(serving, "has_display", lambda: False)


def test_what_is_not_there_is_refused(section: Path, tmp_path: Path) -> None:
    refused(run("view", tmp_path / "none.tif"), "none.tif", "no such file")
    refused(run("view", section, tmp_path / "none.zarr"), "none.zarr", "no such file")
    refused(run("view", section, "--annotations", tmp_path / "none.xml"), "none.xml", "no such")
    refused(run("view", section, "--model", "defualt"), "defualt", "default")
    refused(run("view", tmp_path), tmp_path, "neither slides nor maps")
    (tmp_path / "b.tif").write_bytes(b"")
    refused(run("view", tmp_path / "b.tif"), "b.tif", "not a slide")
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "zarr.json").write_text("{}")
    refused(run("view", section, tmp_path / "c.zarr"), "c.zarr", "not a slidescan map")


def test_the_map_of_another_slide_is_refused(
    section: Path, slide_folder: Path, tmp_path: Path
) -> None:
    finish(*begin(tmp_path / "map.zarr", section))
    result = run("view", slide_folder / "even.tif", tmp_path / "map.zarr")
    refused(result, "map.zarr", "even.tif is another slide")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--host", "0.0.0.0"), "--token auto"),
        (("--host", "192.0.2.1"), "--token auto"),
        (("--token", "short"), "16 or more"),
        (("--port", "70000"), "70000"),
    ],
)
def test_an_open_viewer_needs_a_token(section: Path, options: tuple[str, ...], word: str) -> None:
    result = run("view", section, *options)
    assert result.exit_code == 2
    assert word in result.stderr


def test_the_link_holds_the_token_and_a_headless_machine_says_how_to_reach_it(
    section: Path,
) -> None:
    with_token = ran("view", section, "--host", "0.0.0.0", "--token", "auto", "--port", "0").stdout
    assert re.fullmatch(r"http://[^/]+:\d+/\?token=[\w-]{32}\n", with_token)
    link, tunnel = ran("view", section, "--port", "0").stdout.splitlines()
    port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", link)
    assert port
    assert f"ssh -L {port[1]}:127.0.0.1:{port[1]} " in tunnel


def test_the_next_port_is_taken_where_one_is_in_use(section: Path) -> None:
    with closing(serving.bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        out = ran("view", section, "--port", port, "--no-browser").stdout
        used = int(re.findall(r":(\d+)/", out)[0])
        assert port < used < port + serving.PORTS


def test_a_foreign_address_is_refused(section: Path) -> None:
    result = run("view", section, "--host", "192.0.2.1", "--token", "auto")
    refused(result, "192.0.2.1")


def test_a_server_answers_and_ends_with_ctrl_c(section: Path, tmp_path: Path) -> None:
    made, _ = begin(tmp_path / "map.zarr", section)
    made.close()
    errors = tmp_path / "stderr"
    with serving_process(section, made.path, errors=errors) as (address, process):
        with closing(http.client.HTTPConnection(address, timeout=60)) as client:
            client.request("GET", "/api/slides")
            answer = client.getresponse()
            (slide,) = json.loads(answer.read())["slides"]
            assert answer.status == 200
            client.request("GET", f"/api/slides/{slide['id']}/tiles/0/0_0.jpg")
            assert client.getresponse().read()[:2] == b"\xff\xd8"
        # A page that waits for progress does not keep the server from ending.
        stream = http.client.HTTPConnection(address, timeout=60)
        stream.request("GET", f"/api/maps/{slide['maps'][0]['id']}/events")
        assert stream.getresponse().readline() == b"event: progress\n"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert time.monotonic() - started < 30
        stream.close()
    assert "Traceback" not in errors.read_text()
    host, _, port = address.partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5).close()


class Viewer:
    """Stands for the process of a viewer."""

    started: ClassVar[list[Viewer]] = []

    def __init__(self, command: list[str]) -> None:
        self.command, self.ends = command, list[str]()
        self.found_a_map = any(is_map(Path(word)) for word in command)
        self.started.append(self)

    def wait(self) -> None:
        self.ends.append("waited")

    def terminate(self) -> None:
        self.ends.append("terminated")


@pytest.fixture
def viewers(monkeypatch: pytest.MonkeyPatch) -> list[Viewer]:
    monkeypatch.setattr(beside.subprocess, "Popen", Viewer)
    monkeypatch.setattr(Viewer, "started", [])
    return Viewer.started


def test_a_scan_is_shown_once_its_map_is_there(
    section: Path, tiny_model: Path, tmp_path: Path, viewers: list[Viewer]
) -> None:
    out = tmp_path / "map.zarr"
    used = ("--model", tiny_model, "--mpp", 0.972, *maps.TORCH)
    assert "Ctrl-C" in ran("heatmap", section, "--view", "--out", out, *used).stdout
    (viewer,) = viewers
    assert viewer.command[1:] == [
        *("-m", "slidescan", "view", str(section), str(out)),
        *("--mpp", "0.972", "--model", str(tiny_model)),
    ]
    assert viewer.found_a_map
    assert viewer.ends == ["waited"]


def test_a_scan_that_fails_ends_its_viewer(
    tmp_path: Path, section: Path, viewers: list[Viewer]
) -> None:
    made, _ = begin(tmp_path / "map.zarr", section)
    made.close()

    def fail(out: Path, when: Callable[[], object]) -> None:
        with beside.viewer_of([section], out, []):
            assert wait_until(when)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(made.path, lambda: viewers)
    assert viewers[0].ends == ["terminated", "waited"]
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "none.zarr", lambda: True)
    assert len(viewers) == 1
