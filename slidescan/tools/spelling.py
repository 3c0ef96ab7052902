"""Suggestions for a mistyped name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is spelt most like `name`, or list all where none is.

    >>> suggestion("epoch", ("epochs", "batch"))
    'did you mean epochs?'
    >>> suggestion("zoom", ("blur", "jpeg"))
    'known: blur, jpeg'
    """
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
