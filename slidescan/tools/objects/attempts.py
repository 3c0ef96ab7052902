"""Requests that are repeated, and what their errors mean for the user."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from slidescan.errors import RemoteError

RETRIES = 6
"""After `FIRST`, and then after about twice as long each time."""

FIRST = timedelta(seconds=0.2)

LONGEST_S = 10.0
"""Longest pause between two attempts."""

TIMEOUT_S = 60.0
"""Longest time of one request."""

Result = TypeVar("Result")


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
