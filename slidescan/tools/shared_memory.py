"""Memory that two processes share, without a name that could stay behind."""

from __future__ import annotations

import mmap
import os
import tempfile
import uuid
from contextlib import suppress
from typing import Any

Address = dict[str, int | str]
"""What the other process needs to find the memory; JSON."""


class SharedMemory:
    """Memory made here, for a process that is started later.

    Not `multiprocessing.shared_memory`: it fills /dev/shm, which has 64 MB in a container, and a
    killed process leaves its files there.
    """

    def __init__(self, size: int) -> None:
        """Make `size` bytes of zeros; pages take memory once they are written to."""
        self.size = size
        self._file: int | None = None
        self._name = ""
        if os.name == "nt":
            self._name = f"slidescan-{uuid.uuid4()}"
            self.memory = _named(self._name, size)
            return
        self._file = _file(size)
        self.memory = mmap.mmap(self._file, size)

    @property
    def files(self) -> tuple[int, ...]:
        """File descriptors that the other process has to inherit."""
        return () if self._file is None else (self._file,)

    @property
    def address(self) -> Address:
        """Where `attach` finds it."""
        place: Address = {"size": self.size}
        return place | ({"name": self._name} if self._file is None else {"file": self._file})

    def close(self) -> None:
        """Let go of it; arrays that still show it keep it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        with suppress(BufferError):  # freed with the last array
            self.memory.close()


def attach(address: Address) -> mmap.mmap:
    """The memory that another process made."""
    size = int(address["size"])
    if "name" in address:
        return _named(str(address["name"]), size)
    return mmap.mmap(int(address["file"]), size)


def _file(size: int) -> int:
    """A file without a name, in memory where the system has such files."""
    try:
        file = os.memfd_create("slidescan")
    except (AttributeError, OSError):  # not on macOS, nor in some sandboxes
        with tempfile.TemporaryFile() as named:
            file = os.dup(named.fileno())
    os.ftruncate(file, size)
    return file


def _named(name: str, size: int) -> mmap.mmap:
    windows: dict[str, Any] = {"tagname": name}  # an argument of this system alone
    return mmap.mmap(-1, size, **windows)
