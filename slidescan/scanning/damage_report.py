"""What a scan says and records of damaged blocks of a slide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slidescan.slides.damage import Found, place_l0
from slidescan.tools.settings_diff import JSON

LISTED = 100
"""At most this many blocks are listed in a map's record."""


def warnings(found: Sequence[Found]) -> Iterator[str]:
    """A line for the blocks that were left out, for those of a finer level, for those used."""
    for became, those in (
        ("cannot be read or are damaged and were skipped; cells that see them are NaN",
         [each for each in found if each.skipped]),
        ("cannot be read or are damaged and were computed from a finer level; compare the file "
         "with its source", [each for each in found if each.instead is not None]),
        ("look damaged and were used; compare the file with its source, or leave them out "
         "with --damaged skip --overwrite",
         [each for each in found if not each.skipped and each.instead is None]),
    ):  # fmt: skip
        if those:
            first = those[0]
            blocks = "1 block" if len(those) == 1 else f"{len(those)} blocks"
            yield (
                f"{blocks} of the slide {became}: the first is on level {first.level} at "
                f"{place_l0(first.box_l0)}: {first.why}"
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
