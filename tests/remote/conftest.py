"""A server for all tests of this folder; each test has the bucket to itself by its own prefix."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from s3 import BUCKET, Proxy, environment, proxied, s3_server

from slidescan.tools import web_files
from slidescan.tools.objects import attempts, store


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="session")
def _proxy(server: int) -> Iterator[Proxy]:
    with proxied(server) as proxy:
        yield proxy


@pytest.fixture
def s3(_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy before the server, without faults, which the environment names."""
    for name, value in environment(_proxy.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(attempts, "RETRIES", 3)
    monkeypatch.setattr(attempts, "FIRST", timedelta(milliseconds=5))
    monkeypatch.setattr(web_files, "FIRST_WAIT_S", 0.005)
    store.forget()
    _proxy.reset()
    yield _proxy
    _proxy.reset()
    store.forget()


@pytest.fixture
def folder(request: pytest.FixtureRequest, s3: Proxy) -> str:
    """An address below which the test is alone."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return f"s3://{BUCKET}/{name}"
