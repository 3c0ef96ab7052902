"""The hashed constraints are of the pinned versions."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([\w.-]+)==([\w.+]+)", flags=re.M)


def pins(name: str) -> dict[str, str]:
    found = PIN.findall((ROOT / name).read_text(encoding="utf-8"))
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_each_is_pinned_to_the_same_version_and_has_a_hash() -> None:
    """`make hashes` also checks that none is missing, and the files themselves."""
    pinned, hashed = pins("constraints.txt"), pins("constraints-hashed.txt")
    assert {name: pinned.get(name) for name in hashed} == hashed
    assert len(hashed) > 100
    assert "torch" not in hashed  # PyPI's files of it are not those of the CPU build
    text = (ROOT / "constraints-hashed.txt").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries)
