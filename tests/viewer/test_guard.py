"""Only the viewer's own page may ask, and on the network only who has the token."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient
from viewing import ask, described

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
def test_other_methods_are_refused(viewer: TestClient, method: str) -> None:
    answer = viewer.request(method, "/api/slides")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_head_is_answered(viewer: TestClient) -> None:
    answer = viewer.head("/api/slides")
    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8765", "10.0.0.1", "", "[:"],
)
def test_foreign_names_are_refused(viewer: TestClient, host: str) -> None:
    assert viewer.get("/api/slides", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8765"])
def test_loopback_has_several_names_and_a_tunnel_another_port(
    viewer: TestClient, host: str
) -> None:
    assert viewer.get("/api/slides", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_pages_of_other_sites_are_refused(viewer: TestClient, headers: dict[str, str]) -> None:
    answer = viewer.get("/api/slides", headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.json()["error"]


def test_the_own_page_may_ask(viewer: TestClient) -> None:
    own = {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}
    assert viewer.get("/api/slides", headers=own).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert viewer.get("/api/slides", headers=link).status_code == 200


def test_every_answer_forbids_other_sources(viewer: TestClient) -> None:
    for address in "/api/slides", "/elsewhere":
        headers = viewer.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"


def test_an_endless_address_is_refused(viewer: TestClient) -> None:
    slide = described(viewer)["id"]
    answer = viewer.get(f"/api/slides/{slide}/tiles/0/{'9' * 5000}_0.jpg")
    assert answer.status_code == 414


def test_the_token_is_needed_once(section: Path) -> None:
    with ask(section, host="0.0.0.0", token=TOKEN) as client:
        client.follow_redirects = False
        for given in "", "wrong", TOKEN[:-1], TOKEN + "0":
            refused = client.get("/api/slides", params={"token": given})
            assert refused.status_code == 401
            assert "link" in refused.json()["error"]
        answer = client.get("/api/slides", params={"token": TOKEN, "x": "1"})
        assert answer.status_code == 303
        assert answer.headers["location"] == "./slides?x=1"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert client.get("/api/slides").status_code == 200
        client.cookies.clear()
        assert client.get("/api/slides").status_code == 401


def test_on_the_network_addresses_are_known_and_names_are_not(section: Path) -> None:
    with ask(section, host="0.0.0.0", token=TOKEN) as client:
        query = f"/api/slides?token={TOKEN}"
        assert client.get(query, headers={"host": "10.0.0.7:8765"}).status_code == 200
        assert client.get(query, headers={"host": "evil.example"}).status_code == 403
    with ask(section, host="node7.example", token=TOKEN) as client:
        assert client.get(query, headers={"host": "node7.example:8765"}).status_code == 200
        assert client.get(query, headers={"host": "10.0.0.7"}).status_code == 403
