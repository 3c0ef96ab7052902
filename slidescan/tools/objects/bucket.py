"""What is asked of a bucket, whatever library reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

PART_BYTES = 2**18
"""Of what is fetched in parts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a store says of an object."""

    key: str
    size: int
    modified: datetime
    """by the store's clock"""
    tag: str
    """changes with the content"""


class Bucket(Protocol):
    """The objects of one bucket, by their keys. Every method may raise RemoteError."""

    conditional: bool
    """whether `replace` is there"""

    def get(self, key: str, most_bytes: int | None = None) -> tuple[bytes, str] | None:
        """Content and tag; None where there is no such object, or a larger one."""

    def head(self, key: str) -> Entry | None: ...

    def put(self, key: str, content: bytes) -> str:
        """Write an object, whole or not at all; returns its tag."""

    def create(self, key: str, content: bytes) -> str | None:
        """`put` where there is no such object; None where there is one."""

    def replace(self, key: str, content: bytes, tag: str) -> str | None:
        """`put` where the object has this tag; None where it has changed."""

    def delete(self, *keys: str) -> None: ...

    def copy(self, key: str, to: str) -> None: ...

    def objects(self, prefix: str) -> list[Entry]:
        """The objects whose keys begin with `prefix` and a slash."""

    def folders(self, prefix: str) -> list[str]:
        """The folders directly below a prefix, as keys."""

    def stream(self, key: str, start: int) -> Iterator[bytes]:
        """The content from a byte on, in parts."""

    @property
    def backend(self) -> Any:
        """What zarr's own stores are made from: a store of obstore or a file system of fsspec."""
