"""Buckets by their addresses, and changes of many objects or of one that others change too."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec

from slidescan.errors import ConfigError, WriteError
from slidescan.tools.extras import install_command
from slidescan.tools.objects.bucket import Bucket
from slidescan.tools.objects.fsspec_bucket import FsspecBucket
from slidescan.tools.objects.obstore_bucket import SCHEMES, ObstoreBucket
from slidescan.tools.urls import WEB, Url

AT_ONCE = 16
"""Requests at the same time."""

EDITS = 50
"""Attempts to change an object that others change at the same time."""


def bucket_of(url: Url) -> Bucket:
    """The bucket of an address.

    Raises:
        ConfigError: no library that is installed knows its scheme.
    """
    return _bucket(url.scheme, url.host)


@lru_cache(maxsize=16)
def _bucket(scheme: str, host: str) -> Bucket:
    if scheme in SCHEMES and find_spec("obstore") is not None:
        return ObstoreBucket(scheme, host)
    if scheme in SCHEMES and scheme not in _fsspec_installed():
        raise ConfigError(
            f"{scheme}://{host}: needs obstore, which is not installed; run: "
            f"{install_command('remote')}"
        )
    return FsspecBucket(scheme, host)


def forget() -> None:
    """Forget the buckets that were opened: the environment has changed."""
    _bucket.cache_clear()


def _fsspec_installed() -> list[str]:
    """Schemes that obstore knows and a plug-in of fsspec serves as well."""
    plugins = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
    web = dict.fromkeys(WEB, "aiohttp")
    found = [name for name, library in (plugins | web).items() if find_spec(library) is not None]
    return [*found, "memory"]


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
