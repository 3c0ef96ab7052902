"""How long a cluster takes for a cohort, and what it waits for, in closed form.

Four things are busy during a scan, each for its own time; the slowest one is the time of the scan:

    workers     start + slides * (slide_s + megapixels * s_a_megapixel) / workers
    slide       start + slide_s + the tasks of one slide, one after the other on all workers
    head        slides * (head_s_a_slide + tasks * head_s_a_task), by one thread of Python
    storage     slides * megapixels * mb_a_megapixel / mb_a_second

Nothing else is shared: pixels do not pass the head, and no two workers write one shard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured, and what is assumed of a site."""

    s_a_megapixel: float
    """core-seconds of reading and scoring a megapixel of the scan plane"""
    slide_s: float
    """core-seconds a slide besides: open it, find its tissue, write the levels"""
    start_s: float
    """from the start of a worker to its first tile"""
    head_s_a_task: float
    head_s_a_slide: float
    task_megapixels: float
    megapixels: float
    """of tissue a slide"""
    mb_a_megapixel: float
    """of the slide's file"""
    mb_a_second: float
    """of the storage, for all workers together"""
    euro_an_hour: float
    """of a core"""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A scan of some slides by some workers of one core."""

    hours: float
    waits_for: str
    """workers, slide, head or storage"""
    core_s_a_slide: float
    """paid: idle workers included"""
    euro_a_slide: float


def forecast(costs: Costs, workers: int, slides: int) -> Forecast:
    """The time of a scan and what it costs."""
    tasks = max(1, math.ceil(costs.megapixels / costs.task_megapixels))
    scan_s = costs.megapixels * costs.s_a_megapixel
    rounds = math.ceil(tasks / workers)
    times = {
        "workers": costs.start_s + slides * (costs.slide_s + scan_s) / workers,
        "slide": costs.start_s + costs.slide_s + rounds * scan_s / tasks,
        "head": slides * (costs.head_s_a_slide + tasks * costs.head_s_a_task),
        "storage": slides * costs.megapixels * costs.mb_a_megapixel / costs.mb_a_second,
    }
    slowest = max(times, key=times.__getitem__)
    core_s = times[slowest] * workers / slides
    hours = times[slowest] / 3600
    return Forecast(hours, slowest, core_s, core_s / 3600 * costs.euro_an_hour)
