"""What passes between the head of a cluster scan and its workers: small values, never pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from slidescan.geometry import Box
from slidescan.scanning.filling import Scan
from slidescan.scanning.options import Options
from slidescan.scanning.pipeline import Work
from slidescan.scanning.session import Summary
from slidescan.slides.damage import Found
from slidescan.tools.settings_diff import JSON

TASK_PX = 16 * 2**20
"""Scan-plane pixels of a task, or one block if that has more. It takes seconds on one core, so that
the scheduler's milliseconds do not count, and a killed worker loses seconds."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all tasks of a scan share."""

    options: Options
    command: str
    agreed: Mapping[str, JSON]
    """versions, engine and model, which are the same on all workers"""


@dataclass(frozen=True, slots=True)
class Target:
    """A slide and its map, by paths that all workers see."""

    slide: str
    out: str
    mpp: float | None
    """um/px of the slide's level 0, if it differs from that of the options"""
    started: str = ""
    """when the map was begun, which tells it from a later one at the same path"""
    replaces: bool = False
    """the map is written beside the finished one that it replaces"""


@dataclass(frozen=True, slots=True)
class Group:
    """The blocks of a task."""

    blocks: tuple[Box, ...]
    pixels: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A map that is ready to be filled."""

    target: Target
    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    damaged: tuple[Found, ...]
    complete: Summary | None = None
    """of a map to which nothing is to be done"""


@dataclass(frozen=True, slots=True)
class Finished:
    """A map that is complete."""

    summary: Summary
    warnings: tuple[str, ...]


def groups(scan: Scan, work: Sequence[Work]) -> Iterator[Group]:
    """Put neighbouring blocks together until they have `TASK_PX`."""
    blocks: list[Box] = []
    pixels = 0
    for item in work:
        more = scan.pixels([item])
        if blocks and pixels + more > TASK_PX:
            yield Group(tuple(blocks), pixels)
            blocks, pixels = [], 0
        blocks.append(item.block)
        pixels += more
    if blocks:
        yield Group(tuple(blocks), pixels)
