"""Objects in a bucket: read, written whole, listed, and written on a condition.

obstore (Rust, from the extra `remote`) reaches S3, Google Cloud Storage, Azure and web servers;
fsspec reaches what obstore does not know, and takes its place where it is not installed.
Credentials and endpoints come from the environment alone. A request that fails is repeated
`RETRIES` times.

This module alone imports obstore; it is imported where a user names an address, and nowhere else.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from slidescan.errors import ConfigError, RemoteError, WriteError
from slidescan.tools.extras import install_command
from slidescan.tools.urls import WEB, Url

RETRIES = 6
"""After `FIRST`, and then after about twice as long each time."""

FIRST = timedelta(seconds=0.2)

LONGEST_S = 10.0
"""Longest pause between two attempts."""

TIMEOUT_S = 60.0
"""Longest time of one request."""

AT_ONCE = 16
"""Requests at the same time."""

PART_BYTES = 2**18
"""Of what is fetched in parts."""

EDITS = 50
"""Attempts to change an object that others change at the same time."""

KNOWN = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory", *WEB)
"""Schemes of obstore."""

Result = TypeVar("Result")

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


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


def bucket_of(url: Url) -> Bucket:
    """The bucket of an address.

    Raises:
        ConfigError: no library that is installed knows its scheme.
    """
    return _bucket(url.scheme, url.host)


@lru_cache(maxsize=16)
def _bucket(scheme: str, host: str) -> Bucket:
    if scheme in KNOWN and find_spec("obstore") is not None:
        return _Obstore(scheme, host)
    if scheme in KNOWN and scheme not in _fsspec_installed():
        raise ConfigError(
            f"{scheme}://{host}: needs obstore, which is not installed; run: "
            f"{install_command('remote')}"
        )
    return _Fsspec(scheme, host)


def forget() -> None:
    """Forget the buckets that were opened: the environment has changed."""
    _bucket.cache_clear()


def _fsspec_installed() -> list[str]:
    """Schemes that obstore knows and a plug-in of fsspec serves as well."""
    plugins = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
    web = dict.fromkeys(WEB, "aiohttp")
    found = [name for name, library in (plugins | web).items() if find_spec(library) is not None]
    return [*found, "memory"]


def trouble(where: object, error: BaseException) -> RemoteError | None:
    """What an error of obstore or of the network means for the user; None for any other error."""
    kind = type(error)
    if not kind.__module__.startswith(("obstore", "aiohttp", "botocore")) and not isinstance(
        error, OSError
    ):
        return None
    text = str(error)
    if "BadScheme" in text:
        return RemoteError(
            f"{where}: its endpoint is http://, which is not encrypted; name an https:// one, or "
            "allow it with AWS_ALLOW_HTTP=true in the environment"
        )
    reason = _reason(text) or kind.__name__
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return RemoteError(f"{where}: there is no such bucket; correct the address")
    refusals = ("PermissionDeniedError", "UnauthenticatedError", "PermissionError")
    if kind.__name__ in refusals or reason.startswith(("401", "403")):
        return RemoteError(
            f"{where}: not permitted ({reason}); check the credentials in the environment, see "
            "docs/remote.md, and what they allow"
        )
    return RemoteError(
        f"{where}: cannot be reached ({reason}); what was finished stays, run the same command "
        "again"
    )


def interrupted(error: BaseException) -> bool:
    """Whether the connection ended within an answer, after which obstore does not ask again."""
    first = str(error).partition("\n")[0]
    told = ("status code", "retries", "builder error")
    return type(error).__name__ == "GenericError" and not any(each in first for each in told)


def pauses_s() -> Iterator[float]:
    """The pauses between attempts, in seconds."""
    for attempt in range(RETRIES):
        yield min(LONGEST_S, FIRST.total_seconds() * 2**attempt)


def repeated(call: Callable[[], Result]) -> Result:
    """Call again while the answer is interrupted, as often as any request is repeated."""
    for pause_s in pauses_s():
        try:
            return call()
        except Exception as error:
            if not interrupted(error):
                raise
        time.sleep(pause_s)
    return call()


def _reason(text: str) -> str:
    """The status and the reason in a message of obstore, which has many lines and the address."""
    first = text.partition("\n")[0]
    parts = re.findall(r"status code: (\d{3}[\w ]*)", first) or [first.rpartition(" - ")[2]]
    parts += re.findall(r"<Code>(\w+)</Code>", text)[:1]
    parts += re.findall(r"after (\d+ retries)", first)[:1]
    return ", ".join(part.strip() for part in parts if part.strip() and "://" not in part)


@contextmanager
def reaching(where: object) -> Iterator[None]:
    """Turn errors of the network into one line. Raises RemoteError."""
    try:
        yield
    except Exception as error:
        if (found := trouble(where, error)) is not None:
            raise found from error
        raise


def _plain_http(scheme: str) -> bool:
    """Whether an unencrypted connection is meant: to this machine, or by the address itself."""
    if scheme == "http":
        return True
    found = (os.environ.get(name) for name in _ENDPOINTS)
    endpoint = urlsplit(next((each for each in found if each), ""))
    loopback = endpoint.hostname in ("localhost", "127.0.0.1", "::1")
    return endpoint.scheme == "http" and loopback


class _Obstore:
    """A bucket through obstore. Safe from threads."""

    conditional = True

    def __init__(self, scheme: str, host: str) -> None:
        import obstore
        from obstore.store import MemoryStore, from_url

        self._obstore, self._name = obstore, f"{scheme}://{host}"
        if scheme == "memory":
            self.store: Any = MemoryStore()
            return
        options: dict[str, Any] = {"timeout": f"{TIMEOUT_S:g}s", "connect_timeout": "10s"}
        if _plain_http(scheme):
            options["allow_http"] = True
        backoff = {
            "init_backoff": FIRST,
            "max_backoff": timedelta(seconds=LONGEST_S),
            "base": 2,
        }
        retry: Any = {
            "max_retries": RETRIES,
            "backoff": backoff,
            "retry_timeout": timedelta(seconds=(RETRIES + 1) * TIMEOUT_S),
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


class _Fsspec:
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
                f"{', '.join(f'{each}://' for each in KNOWN)}"
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


def edit(url: Url, change: Callable[[bytes | None], bytes | None]) -> None:
    """Change an object that others change as well: the change is repeated on what they wrote.

    `change` takes the content, None where there is none, and returns the new one, or None to leave
    it as it is.

    Raises:
        WriteError: others changed it again and again.
        RemoteError: the store cannot be reached.
    """
    bucket = bucket_of(url)
    for attempt in range(EDITS):
        found = bucket.get(url.path)
        content = change(found[0] if found else None)
        if content is None:
            return
        if found:
            tag = bucket.replace(url.path, content, found[1])
        else:
            tag = bucket.create(url.path, content)
        if tag is not None:
            return
        time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))
    raise WriteError(f"{url}: others write it all the time; run the same command again")


def put_all(bucket: Bucket, objects: dict[str, bytes]) -> None:
    """Write many objects at the same time. Raises RemoteError."""
    with ThreadPoolExecutor(AT_ONCE, "put") as pool:
        for _ in pool.map(lambda key: bucket.put(key, objects[key]), objects):
            pass


def copy_all(bucket: Bucket, keys: dict[str, str]) -> None:
    """Copy many objects at the same time, from key to value. Raises RemoteError."""
    with ThreadPoolExecutor(AT_ONCE, "copy") as pool:
        for _ in pool.map(bucket.copy, keys.keys(), keys.values()):
            pass
