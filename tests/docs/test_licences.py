"""Licences of what slidescan installs: none that forbids combining it, or limits its use."""

from __future__ import annotations

import re

import pytest

from docs.licences import FORBIDDEN, HEAD, PAGE, direct, licence, needed


def rows() -> dict[str, str]:
    _, _, table = PAGE.read_text(encoding="utf-8").partition(HEAD)
    return dict(re.findall(r"^\| (\S+) \| (.+) \| \S+ \|$", table, re.MULTILINE))


def test_no_library_has_a_licence_that_is_forbidden() -> None:
    found = {name: licence(name) for name in needed()}
    assert "torch" in found
    assert "albumentations" in found
    assert {name: text for name, text in found.items() if FORBIDDEN.search(text)} == {}


def test_the_agpl_edition_of_albumentations_is_not_required() -> None:
    assert "albumentationsx" not in direct() | needed()


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [
        ("GNU Affero General Public License v3", True),
        ("AGPL-3.0-only", True),
        ("GPL-3.0-or-later", True),
        ("Free for non-commercial use", True),
        ("LGPL-2.1-only AND MIT", False),
        ("BSD-3-Clause", False),
    ],
)
def test_what_is_forbidden(text: str, forbidden: bool) -> None:
    assert bool(FORBIDDEN.search(text)) == forbidden


def test_the_page_is_true() -> None:
    listed, installed = rows(), needed()
    assert len(listed) > 50
    wrong = {n: t for n, t in listed.items() if n in installed and licence(n) != t}
    assert wrong == {}, "python -m docs.licences writes the table anew"
