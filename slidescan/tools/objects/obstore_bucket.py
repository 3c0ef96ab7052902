"""A bucket through obstore: S3, Google Cloud Storage, Azure, web servers, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from slidescan.tools.objects import attempts
from slidescan.tools.objects.attempts import reaching, repeated
from slidescan.tools.objects.bucket import PART_BYTES, Entry
from slidescan.tools.urls import WEB

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory", *WEB)

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class ObstoreBucket:
    """A bucket through obstore. Safe from threads."""

    conditional = True

    def __init__(self, scheme: str, host: str) -> None:
        import obstore
        from obstore.store import MemoryStore, from_url

        self._obstore, self._name = obstore, f"{scheme}://{host}"
        if scheme == "memory":
            self.store: Any = MemoryStore()
            return
        options: dict[str, Any] = {"timeout": f"{attempts.TIMEOUT_S:g}s", "connect_timeout": "10s"}
        if _plain_http(scheme):
            options["allow_http"] = True
        backoff = {
            "init_backoff": attempts.FIRST,
            "max_backoff": timedelta(seconds=attempts.LONGEST_S),
            "base": 2,
        }
        retry: Any = {
            "max_retries": attempts.RETRIES,
            "backoff": backoff,
            "retry_timeout": timedelta(seconds=(attempts.RETRIES + 1) * attempts.TIMEOUT_S),
        }
        with reaching(self._name):
            self.store = from_url(self._name, client_options=options, retry_config=retry)  # type: ignore[call-overload]  # options are typed by scheme

    def get(self, key: str, most_bytes: int | None = None) -> tuple[bytes, str] | None:
        with reaching(f"{self._name}/{key}"), _missing_is_none():
            return repeated(partial(self._get, key, most_bytes))
        return None

    def _get(self, key: str, most_bytes: int | None) -> tuple[bytes, str] | None:
        found = self._obstore.get(self.store, key)
        if most_bytes is not None and found.meta["size"] > most_bytes:
            return None
        return bytes(found.bytes()), _tag(found.meta)

    def head(self, key: str) -> Entry | None:
        with reaching(f"{self._name}/{key}"), _missing_is_none():
            return _entry(repeated(partial(self._obstore.head, self.store, key)))
        return None

    def put(self, key: str, content: bytes) -> str:
        with reaching(f"{self._name}/{key}"):
            return _tag(repeated(partial(self._obstore.put, self.store, key, content)))

    def create(self, key: str, content: bytes) -> str | None:
        from obstore.exceptions import AlreadyExistsError

        with reaching(f"{self._name}/{key}"):
            try:
                put = partial(self._obstore.put, self.store, key, content, mode="create")
                return _tag(repeated(put))
            except AlreadyExistsError:
                pass
        return self._mine(key, content)

    def replace(self, key: str, content: bytes, tag: str) -> str | None:
        from obstore.exceptions import PreconditionError

        mode: Any = {"e_tag": tag}
        with reaching(f"{self._name}/{key}"):
            try:
                put = partial(self._obstore.put, self.store, key, content, mode=mode)
                return _tag(repeated(put))
            except (PreconditionError, FileNotFoundError):
                pass
        return self._mine(key, content)

    def _mine(self, key: str, content: bytes) -> str | None:
        """The tag of an object if it has this content.

        An attempt may have been carried out although its answer was lost; the next one then finds
        that the condition does not hold.
        """
        found = self.get(key)
        return found[1] if found and found[0] == content else None

    def delete(self, *keys: str) -> None:
        with reaching(self._name), suppress(FileNotFoundError):
            if keys:
                repeated(partial(self._obstore.delete, self.store, list(keys)))

    def copy(self, key: str, to: str) -> None:
        with reaching(f"{self._name}/{to}"):
            repeated(partial(self._obstore.copy, self.store, key, to))

    def objects(self, prefix: str) -> list[Entry]:
        with reaching(f"{self._name}/{prefix}"):
            found = repeated(lambda: self._obstore.list(self.store, f"{prefix}/").collect())
            return [_entry(each) for each in found]

    def folders(self, prefix: str) -> list[str]:
        below = f"{prefix}/" if prefix else None
        with reaching(f"{self._name}/{prefix}"):
            found = repeated(partial(self._obstore.list_with_delimiter, self.store, below))
            return [str(each).rstrip("/") for each in found["common_prefixes"]]

    def stream(self, key: str, start: int) -> Iterator[bytes]:
        options: Any = {"range": {"offset": start}} if start else {}
        with reaching(f"{self._name}/{key}"):
            found = self._obstore.get(self.store, key, options=options)
            for part in found.stream(min_chunk_size=PART_BYTES):  # what is less is lost with a cut
                yield bytes(part)

    @property
    def backend(self) -> Any:
        return self.store


@contextmanager
def _missing_is_none() -> Iterator[None]:
    """Pass over a missing object, but not over a missing bucket."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            raise


def _tag(found: Any) -> str:
    return str(found.get("e_tag") or "")


def _entry(found: Any) -> Entry:
    return Entry(found["path"], found["size"], found["last_modified"], _tag(found))


def _plain_http(scheme: str) -> bool:
    """Whether an unencrypted connection is meant: to this machine, or by the address itself."""
    if scheme == "http":
        return True
    found = (os.environ.get(name) for name in _ENDPOINTS)
    endpoint = urlsplit(next((each for each in found if each), ""))
    loopback = endpoint.hostname in ("localhost", "127.0.0.1", "::1")
    return endpoint.scheme == "http" and loopback
