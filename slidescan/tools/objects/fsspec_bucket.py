"""A bucket through fsspec, for schemes that obstore does not know, or where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from slidescan.errors import ConfigError
from slidescan.tools.objects.attempts import reaching
from slidescan.tools.objects.bucket import PART_BYTES, Entry
from slidescan.tools.objects.obstore_bucket import SCHEMES


class FsspecBucket:
    """A bucket through fsspec, which has no writes on the condition of a tag."""

    conditional = False

    def __init__(self, scheme: str, host: str) -> None:
        from fsspec.core import url_to_fs

        self._name = f"{scheme}://{host}"
        try:
            with reaching(self._name):
                self._files, root = url_to_fs(self._name)
        except (ImportError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{self._name}: {scheme}:// is not known ({error}); there are "
                f"{', '.join(f'{each}://' for each in SCHEMES)}"
            ) from error
        self._root = root.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}".rstrip("/")

    def _key(self, path: str) -> str:
        return path.removeprefix(self._root).strip("/")

    def get(self, key: str, most_bytes: int | None = None) -> tuple[bytes, str] | None:
        with reaching(f"{self._name}/{key}"), suppress(FileNotFoundError):
            if most_bytes is not None and self._files.size(self._path(key)) > most_bytes:
                return None
            return self._files.cat_file(self._path(key)), ""
        return None

    def head(self, key: str) -> Entry | None:
        with reaching(f"{self._name}/{key}"), suppress(FileNotFoundError):
            return self._entry(self._files.info(self._path(key)))
        return None

    def _entry(self, info: Any) -> Entry:
        found = (info.get(key) for key in ("LastModified", "last_modified", "created", "mtime"))
        when = next((each for each in found if isinstance(each, datetime)), datetime.now(UTC))
        key = self._key(info["name"])
        tag = str(info.get("ETag") or info.get("etag") or f"{info['size']}-{when.timestamp()}")
        return Entry(key, info["size"] or 0, when, tag)

    def put(self, key: str, content: bytes) -> str:
        with reaching(f"{self._name}/{key}"):
            self._files.pipe_file(self._path(key), content)
        return ""

    def create(self, key: str, content: bytes) -> str | None:
        with reaching(f"{self._name}/{key}"), suppress(FileExistsError):
            self._files.pipe_file(self._path(key), content, mode="create")
            return ""
        return None

    def replace(self, key: str, content: bytes, tag: str) -> str | None:
        raise ConfigError(f"{self._name}: writes on a condition need obstore")

    def delete(self, *keys: str) -> None:
        with reaching(self._name):
            for key in keys:
                with suppress(FileNotFoundError):
                    self._files.rm_file(self._path(key))

    def copy(self, key: str, to: str) -> None:
        with reaching(f"{self._name}/{to}"):
            self._files.cp_file(self._path(key), self._path(to))

    def objects(self, prefix: str) -> list[Entry]:
        with reaching(f"{self._name}/{prefix}"), suppress(FileNotFoundError):
            self._files.invalidate_cache()
            found = self._files.find(self._path(prefix), detail=True)
            return [self._entry(info) for info in found.values()]
        return []

    def folders(self, prefix: str) -> list[str]:
        with reaching(f"{self._name}/{prefix}"), suppress(FileNotFoundError):
            found = self._files.ls(self._path(prefix), detail=True)
            return [self._key(each["name"]) for each in found if each["type"] == "directory"]
        return []

    def stream(self, key: str, start: int) -> Iterator[bytes]:
        with reaching(f"{self._name}/{key}"), self._files.open(self._path(key)) as file:
            file.seek(start)
            while part := file.read(PART_BYTES):
                yield part

    @property
    def backend(self) -> Any:
        return self._files
