"""The viewer's page in a real browser: a server in a thread, Chromium, and what its pixels show."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Pixels = NDArray[np.uint8]

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_S = 20.0


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's Chromium, without a window; skips where something that it needs is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from slidescan.viewer.app import STATIC

    if not (STATIC / "index.html").is_file():
        pytest.skip("needs the viewer's page: make page")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def served(
    *paths: Path, annotations: tuple[Path, ...] = (), models: tuple[str, ...] = ()
) -> Iterator[str]:
    """The address of a viewer of these paths, on a free port."""
    import uvicorn

    from slidescan.viewer.app import make_app
    from slidescan.viewer.catalogue import Catalogue, sort_paths
    from slidescan.viewer.serving import bind
    from slidescan.viewer.state import State

    app = make_app(State(Catalogue(sort_paths(paths, annotations, None)), models))
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, ws="none", log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Visit:
    """A page that is open, what it asked for and what it complained of."""

    page: Page
    address: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def json(self, path: str) -> Any:
        """What the server answers to this browser."""
        return self.page.request.get(self.address + path).json()

    def slide(self) -> dict[str, Any]:
        """The description of the first slide."""
        found: dict[str, Any] = self.json(
            f"api/slides/{self.json('api/slides')['slides'][0]['id']}"
        )
        return found

    def show(self, place: tuple[float, float, float], **layer: Any) -> None:
        """Open the link to (x, y, zoom); `layer` changes the first map's settings."""
        slide = self.slide()
        at = {"opacity": 1, "low": 0, "high": 1, "threshold": 0.5} | layer
        switches = [int(at.pop("shown", True)), int(at.pop("cut", True))]
        values = [*switches, *(at[key] for key in ("opacity", "low", "high", "threshold"))]
        query = {"slide": slide["id"], "x": place[0], "y": place[1], "zoom": place[2], "regions": 0}
        if slide["maps"]:
            parts = [*values, at.get("colours", "viridis"), slide["maps"][0]["id"]]
            query["map"] = "~".join(map(str, parts))
        link = urlencode(query)
        self.page.goto(f"{self.address}#{link}")
        self.page.reload()

    def settled(self) -> Pixels:
        """The slide's part of the screen, (H, W, 3), when it has stopped changing."""
        self.page.locator(".panes").wait_for()
        self.page.wait_for_load_state("networkidle")
        before = self.now()
        for _ in range(40):
            self.page.wait_for_timeout(250)
            now = self.now()
            if np.array_equal(now, before):
                return now
            before = now
        raise AssertionError("the page does not come to rest")

    def now(self) -> Pixels:
        """The same at this moment; an unfinished map's connection is never idle."""
        picture = Image.open(io.BytesIO(self.page.locator(".panes").screenshot()))
        return np.asarray(picture.convert("RGB"))

    def bare(self) -> None:
        """Hide what lies over the slide, but for the map and the outlines."""
        css = ".stage > :not(.panes), #toast { visibility: hidden !important }"
        self.page.add_style_tag(content=css)


@contextmanager
def visited(browser: Browser, address: str, **context: Any) -> Iterator[Visit]:
    """A page without complaints of its own that asks its own server alone."""
    size = {"width": 1200, "height": 800}
    with browser.new_context(viewport=size, **context) as private:
        visit = Visit(private.new_page(), address)
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on(
            "console",
            lambda message: message.type == "error" and visit.complaints.append(message.text),
        )
        visit.page.goto(address)
        yield visit
        assert not visit.complaints, visit.complaints
        own = urlsplit(address).netloc
        elsewhere = [url for url in visit.requests if urlsplit(url).netloc not in (own, "")]
        assert not elsewhere, elsewhere


def until(holds: Callable[[], object], page: Page) -> None:
    """Wait until `holds`."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(100)


def edges(line: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Where a line of grey values crosses `level`, px from the left border of the first pixel."""
    above = line > level
    left = np.flatnonzero(above[1:] != above[:-1])
    a, b = line[left], line[left + 1]
    return left + 0.5 + (level - a) / (b - a)
