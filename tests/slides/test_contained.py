"""A crash of OpenSlide costs the part of the slide that it crashed at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import slides

from slidescan.errors import SlideError
from slidescan.geometry import Box
from slidescan.slides import contained
from slidescan.slides.slide import Slide

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

Crash = Callable[[str], None]
STORED = slides.noise(512, 768)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> None:
    contained.PROCESSES.close()


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Crash:
    def at(place: str) -> None:
        monkeypatch.setattr(contained.PROCESSES, "module", "crashing_openslide")
        monkeypatch.setenv("SLIDESCAN_TEST_CRASH", f"slide.tif {place}")

    return at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """512 x 768 px in tiles of 128, without a pyramid."""
    slides.write_slide(tmp_path / "slide.tif", STORED, tile=128)
    return tmp_path / "slide.tif"


def test_a_crash_is_an_error_of_its_region_and_the_rest_stays_readable(
    path: Path, crash: Crash
) -> None:
    crash("384 256")
    with Slide.open(path) as slide:
        plane = slide.plane(0.25)
        for _ in range(2):
            with pytest.raises(SlideError) as caught:
                plane.read(Box(0, 0, 512, 768))
            text = str(caught.value)
            assert "cannot read level 0 at level-0 x=384, y=256, 128 x 128 px" in text
            assert "OpenSlide crashed there (SIGSEGV)" in text
            assert "\n" not in text
        np.testing.assert_array_equal(plane.read(Box(0, 0, 256, 768)), STORED[:256])
        np.testing.assert_array_equal(plane.read(Box(384, 0, 512, 768)), STORED[384:])


def test_a_crash_is_a_gap_where_damage_is_skipped(path: Path, crash: Crash) -> None:
    crash("384 256")
    with Slide.open(path, skip_damaged=True) as slide:
        pixels, gaps = slide.plane(0.25).read_with_gaps(Box(0, 0, 512, 768))
        (found,) = slide.damage.all()
    expected = np.zeros((512, 768), bool)
    expected[256:384, 384:512] = True
    assert gaps is not None
    np.testing.assert_array_equal(gaps, expected)
    np.testing.assert_array_equal(pixels[~expected], STORED[~expected])
    assert (found.box_l0, found.skipped) == ((384, 256, 128, 128), True)
    assert "SIGSEGV" in found.why


def test_one_threads_crash_is_not_another_threads_error(path: Path, crash: Crash) -> None:
    crash("384 256")
    with Slide.open(path) as slide:
        plane, start = slide.plane(0.25), threading.Barrier(4)

        def good(_: int) -> bool:
            start.wait()
            parts = (plane.read(Box(0, 0, 200, 768)) for _ in range(3))
            return all(np.array_equal(part, STORED[:200]) for part in parts)

        def bad(_: int) -> bool:
            start.wait()
            with pytest.raises(SlideError, match=r"x=384, y=256.*SIGSEGV"):
                plane.read(Box(300, 400, 310, 410))
            return True

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(work, i) for i, work in enumerate((good, bad, good, bad))]
            assert all(task.result() for task in done)


def test_a_crash_at_opening_is_one_line(path: Path, crash: Crash) -> None:
    crash("open")
    with pytest.raises(SlideError, match=r"crashed while opening it \(SIGSEGV\)") as caught:
        Slide.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_crash_that_no_region_explains_is_given_up_in_the_end(path: Path, crash: Crash) -> None:
    crash("any")
    with Slide.open(path) as slide:
        plane = slide.plane(0.25)
        for _ in range(contained.MOST_UNEXPLAINED):
            np.testing.assert_array_equal(plane.read(Box(0, 0, 512, 768)), STORED)
        with pytest.raises(SlideError, match=r"ended 4 times \(SIGSEGV\)"):
            plane.read(Box(0, 0, 512, 768))


def test_a_colour_profile_that_crashes_is_none(path: Path, crash: Crash, tmp_path: Path) -> None:
    crash("profile")
    options = {"tile": (64, 64), "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    slides.tifffile.imwrite(path, STORED, iccprofile=b"0" * 200, metadata=None, **options)
    with Slide.open(path) as slide:
        assert slide.warnings == ()
        np.testing.assert_array_equal(slide.read_level(0, Box(0, 0, 512, 768)), STORED)


def test_pixels_are_those_of_openslide(path: Path) -> None:
    """`read_into` calls the library by a name that openslide-python keeps to itself."""
    slides.drop_tile(path, 1, 2)
    with contained.ContainedSlide(path) as slide, openslide.OpenSlide(path) as raw:
        x, y, width, height = region = (200, 100, 300, 150)
        rgba = np.asarray(raw.read_region((x, y), 0, (width, height)))
        (got,) = slide.read(0, [region])
        np.testing.assert_array_equal(got[..., [2, 1, 0, 3]], rgba)
        assert set(np.unique(rgba[..., 3])) == {0, 255}


def test_a_process_serves_one_slide_after_the_other(path: Path) -> None:
    with Slide.open(path) as slide:
        first = slide._handle._child
    with Slide.open(path) as slide, Slide.open(path) as other:
        assert slide._handle._child is first
        assert other._handle._child is not first
    unclosed = Slide.open(path)
    process = unclosed._handle._child
    del unclosed
    contained.PROCESSES.close()
    assert process._process.returncode == 0


SCRIPT = """
import os, signal, sys
from slidescan.slides.slide import Slide
slide = Slide.open(sys.argv[1])
print(slide._handle._child._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_process_ends_with_a_parent_that_was_killed(path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, path], stdout=subprocess.PIPE, timeout=120)
    assert ran.returncode == -signal.SIGKILL
    child = Path("/proc", ran.stdout.decode().strip(), "stat")
    until = time.monotonic() + 60
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < until, "the process stays"
        time.sleep(0.05)
