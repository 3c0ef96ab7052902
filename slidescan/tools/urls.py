"""Places of files and folders: paths of this machine, and addresses in stores and on servers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from slidescan.errors import ConfigError

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""Two letters at least: one would be a drive of Windows."""

WEB = ("http", "https")


@dataclass(frozen=True, slots=True)
class Url:
    """An address, with the parts that `Path` has.

    >>> url = Url("s3", "bucket", "maps") / "slide.zarr"
    >>> str(url), url.stem, str(url.parent)
    ('s3://bucket/maps/slide.zarr', 'slide', 's3://bucket/maps')
    """

    scheme: str
    host: str
    """the bucket, the container or the server"""
    path: str = ""
    """without slashes at its ends"""
    query: str = field(default="", repr=False, compare=False)
    """of a signed address. It is a credential, so it is neither printed nor recorded."""

    def __str__(self) -> str:
        """The address without its query."""
        return f"{self.scheme}://{self.host}/{self.path}"

    @property
    def signed(self) -> str:
        """The address with its query, for the server alone."""
        return f"{self}?{self.query}" if self.query else str(self)

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(unquote(self.path) if self.scheme in WEB else self.path)

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def parent(self) -> Url:
        return replace(self, path=self.path.rpartition("/")[0], query="")

    def __truediv__(self, name: str) -> Url:
        return replace(self, path=f"{self.path}/{name}".strip("/"), query="")

    def with_name(self, name: str) -> Url:
        return self.parent / name


Place: TypeAlias = Path | Url
AnyPlace: TypeAlias = str | os.PathLike[str] | Url
"""What functions for users take."""


def is_url(text: str) -> bool:
    """Whether a text begins like an address."""
    return _SCHEME.match(text) is not None


def place_of(text: AnyPlace) -> Place:
    """The path or the address that a user wrote; file:// is a path of this machine.

    Raises ConfigError where an address has no bucket, or credentials that would be recorded.
    """
    if isinstance(text, Url):
        return text
    text = os.fspath(text)
    if not is_url(text):
        return Path(text)
    scheme = text.partition("://")[0].lower()
    # A bucket's keys may hold "?" and "#"; addresses of servers have a query.
    parts = urlsplit(text) if scheme in (*WEB, "file") else None
    if parts and scheme == "file":
        path = unquote(parts.path)
        return Path(path.lstrip("/") if os.name == "nt" else path)
    host, _, path = text.partition("://")[2].partition("/")
    if parts:
        host, path = parts.netloc, parts.path
    if "@" in host and scheme not in ("abfs", "abfss"):  # there: container@account
        raise ConfigError(
            f"{scheme}://...@{host.rpartition('@')[2]}: an address with credentials would end up "
            "in logs; name them in the environment, see docs/remote.md"
        )
    if not host:
        raise ConfigError(f"{text}: names no bucket or server; expected {scheme}://NAME/...")
    return Url(scheme, host, re.sub("/+", "/", path).strip("/"), parts.query if parts else "")


def is_there(slide: str | Place) -> bool:
    """Whether a file exists; of an address that shows when it is fetched."""
    return is_url(str(slide)) or os.path.lexists(slide if isinstance(slide, Path) else str(slide))


def without_secrets(argument: str) -> str:
    """An argument of a command as it may be recorded: addresses without query and credentials.

    >>> without_secrets("https://host/slide.svs?Signature=abc")
    'https://host/slide.svs'
    """
    if not is_url(argument):
        return argument
    try:
        return str(place_of(argument))
    except ConfigError:
        return argument.partition("://")[0] + "://..."
