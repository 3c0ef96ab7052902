"""What a scan says and records of damaged blocks of a slide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slidescan.slides.damage import Found, place_l0
from slidescan.tools.settings_diff import JSON

LISTED = 100
"""At most this many blocks are listed in a map's record."""


def warnings(found: Sequence[Found]) -> Iterator[str]:
    """A line for the blocks that were left out, for those of a finer level, for those used."""
    for what, became, those in (
        ("damaged or not readable", "skipped; cells that see such a block are NaN",
         [each for each in found if each.skipped]),
        ("damaged or not readable", "computed from a finer level; compare the file with its source",
         [each for each in found if each.instead is not None]),
        ("perhaps damaged", "used; compare the file with its source, or leave such blocks out with "
         "--damaged skip --overwrite",
         [each for each in found if not each.skipped and each.instead is None]),
    ):  # fmt: skip
        if those:
            first = those[0]
            blocks, verb = ("block", "was") if len(those) == 1 else ("blocks", "were")
            yield (
                f"{len(those)} {blocks} of the slide, {what}, {verb} {became}: the first is on "
                f"level {first.level} at {place_l0(first.box_l0)}: {first.why}"
            )


def record(found: Sequence[Found]) -> dict[str, JSON]:
    """What a map records: how many blocks, and the first of them with the reasons."""
    if not found:
        return {}
    listed: list[JSON] = [
        {
            "level": each.level,
            "box_l0": list(each.box_l0),
            "why": each.why,
            "skipped": each.skipped,
            "instead": each.instead,
        }
        for each in found[:LISTED]
    ]
    return {"damaged": {"blocks": len(found), "listed": listed}}
