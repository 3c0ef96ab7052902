"""How to install what an optional part of slidescan needs."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires


def install_command(extra: str) -> str:
    """The command that installs what is missing of an extra, for this Python.

    It names the libraries, not `slidescan[extra]`, which pip would look for on an index.
    """
    stated = (line.partition(";") for line in requires("slidescan") or ())
    wanted = [each.strip() for each, _, marker in stated if _is_of(extra, marker)]
    missing = [each for each in wanted if not _installed(each)]
    return shlex.join([sys.executable, "-m", "pip", "install", *(missing or wanted)])


def _is_of(extra: str, marker: str) -> bool:
    return re.search(rf"extra == ['\"]{extra}['\"]", marker) is not None


def _installed(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement)
    assert name
    try:
        distribution(name[0])
    except PackageNotFoundError:
        return False
    return True
