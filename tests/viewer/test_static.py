"""The page that the build left, or one line that says how to build it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from viewing import ask

from slidescan.viewer import app


@pytest.fixture
def built(section: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("<!doctype html><title>slidescan</title>")
    (static / "licences.txt").write_text("BSD-3-Clause")
    (static / "page.js").write_text("0")
    (tmp_path / "secret.txt").write_text("secret")
    (static / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(app, "STATIC", static)
    with ask(section) as client:
        yield client


def test_the_page_and_its_files_are_served(built: TestClient) -> None:
    page = built.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert built.get("/licences").text == "BSD-3-Clause"
    assert built.get("/static/page.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "name", ["../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "link.txt", "", "none.js"]
)
def test_nothing_outside_the_page_is_served(built: TestClient, name: str) -> None:
    answer = built.get(f"/static/{name}")
    assert answer.status_code == 404
    assert "secret" not in answer.text.replace(name, "")


def test_a_page_that_was_not_built_says_how(
    section: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "STATIC", tmp_path / "none")
    with ask(section) as client:
        answer = client.get("/")
        assert answer.status_code == 503
        assert "npm" in answer.json()["error"]
        assert client.get("/static/page.js").status_code == 404
