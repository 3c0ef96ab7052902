"""Files of web servers: their size and tag, and their content from any byte on."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from slidescan.errors import RemoteError
from slidescan.tools.urls import Url

PART_BYTES = 2**20
TIMEOUT_S = 60.0

FIRST_WAIT_S = 0.2
RETRIES = 5
"""After `FIRST_WAIT_S`, and then after twice as long each time."""


def head(url: Url) -> tuple[int, str]:
    """Size and tag of a file. Raises RemoteError.

    The first byte is asked for, because a signed address often allows no HEAD.
    """
    with _opened(url, {"Range": "bytes=0-0"}) as answer:
        stated = answer.headers.get("Content-Range", "").rpartition("/")[2]
        size = stated if stated.isdigit() else answer.headers.get("Content-Length", "")
        if not size.isdigit():
            raise RemoteError(f"{url}: the server states no size; download the slide yourself")
        return int(size), _tag(answer)


def stream(url: Url, start: int, tag: str) -> Iterator[bytes]:
    """The content from a byte on, in parts, also from a server that knows no ranges.

    Raises RemoteError: it cannot be reached, or the file has another tag now.
    """
    with _opened(url, {"Range": f"bytes={start}-"} if start else {}) as answer:
        if _tag(answer) != tag:
            raise RemoteError(f"{url}: the file changed while it was fetched")
        skip = start if answer.status == 200 else 0
        while part := _read(url, answer):
            yield part[skip:]
            skip = max(0, skip - len(part))


def _read(url: Url, answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(PART_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise RemoteError(f"{url}: the connection was cut ({error})") from error


def _tag(answer: http.client.HTTPResponse) -> str:
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")


def _opened(url: Url, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Send a request, again where it fails for a while. Raises RemoteError."""
    wait_s = FIRST_WAIT_S
    for attempt in range(RETRIES + 1):
        try:
            answer: http.client.HTTPResponse = urlopen(
                Request(url.signed, headers=headers), timeout=TIMEOUT_S
            )
            return answer
        except HTTPError as error:
            error.close()
            if error.code not in (408, 429) and error.code < 500:
                raise RemoteError(f"{url}: {_refusal(error.code)}") from error
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = str(getattr(error, "reason", None) or error or type(error).__name__)
        if attempt < RETRIES:
            time.sleep(wait_s)
            wait_s *= 2
    raise RemoteError(
        f"{url}: cannot be reached ({reason}, after {RETRIES} retries); run the same command "
        "again, which goes on where it stopped"
    )


def _refusal(code: int) -> str:
    if code in (401, 403):
        return f"not permitted ({code}); a signed address may have expired"
    if code in (404, 410):
        return f"no such file ({code}); correct the address"
    return f"the server refuses ({code})"
