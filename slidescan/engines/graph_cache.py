"""Compiled graphs on disk, so that a scan needs neither torch nor a second compilation.

An entry is named by the SHA-256 of its key, which holds everything that a graph depends on (see
`openvino.graph_key`). A graph of another version is therefore never found; it stays on the disk
until newer entries take its place (`KEPT_BYTES`).

Several processes may use a folder at the same time. An entry appears whole (`replacing`), and all
processes that write one write equivalent graphs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from slidescan.errors import WriteError
from slidescan.tools.atomic_files import replacing
from slidescan.tools.settings_diff import JSON

SUFFIX = ".graph"

KEPT_BYTES = 2**28
"""Entries beyond this total are removed, those unused for the longest time first. The graphs of
the shipped models have 0.4 to 5 MB each."""

_DIGEST_BYTES = 32


def user_folder() -> Path | None:
    """Where this user's graphs are kept, on Linux below $XDG_CACHE_HOME or ~/.cache.

    None for a user without a home.
    """
    try:
        folder = user_cache_path("slidescan") / "graphs"
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # earlier platformdirs do not raise


class GraphCache:
    """Graphs by their keys, in memory and in `folder`; in memory alone where that is None.

    A folder that cannot be read or written is no error: the graph is built again.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._graphs: dict[str, bytes] = {}

    def has(self, key: Mapping[str, JSON]) -> bool:
        """Whether there is a sound entry."""
        return self._load(_name(key)) is not None

    def get(self, key: Mapping[str, JSON], build: Callable[[], bytes]) -> bytes:
        """The graph of this key; `build` makes it where there is no sound entry."""
        name = _name(key)
        graph = self._load(name)
        if graph is None:
            self._graphs[name] = graph = build()
            self._store(name, graph)
        return graph

    def _load(self, name: str) -> bytes | None:
        if name in self._graphs or self.folder is None:
            return self._graphs.get(name)
        path = self.folder / f"{name}{SUFFIX}"
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, graph = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != _digest(name, graph):
            return None
        with suppress(OSError):  # the folder may be read-only
            os.utime(path)
        self._graphs[name] = graph
        return graph

    def _store(self, name: str, graph: bytes) -> None:
        if self.folder is None:
            return
        with suppress(OSError, WriteError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / f"{name}{SUFFIX}") as beside:
                beside.write_bytes(_digest(name, graph) + graph)
            self._prune(self.folder)

    @staticmethod
    def _prune(folder: Path) -> None:
        """Remove the entries unused for the longest time, and what killed processes left."""
        found = [(path.stat(), path) for path in folder.glob(f"*{SUFFIX}")]
        total = 0
        for about, path in sorted(found, key=lambda each: each[0].st_mtime, reverse=True):
            total += about.st_size
            if total > KEPT_BYTES:
                path.unlink(missing_ok=True)


def _name(key: Mapping[str, JSON]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _digest(name: str, graph: bytes) -> bytes:
    return hashlib.sha256(name.encode() + graph).digest()
