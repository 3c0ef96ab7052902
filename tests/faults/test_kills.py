"""SIGKILL, Ctrl-C and power failures at random moments: run again, it ends as if nothing had been.

After every one, what stands under its name is whole. `make faults` is the full form:
SLIDESCAN_KILLS=200 of each command.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import cases
import limits
import numpy as np
import processes
import pytest
from cases import Case, Inputs

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL"),
    pytest.mark.slow,
    pytest.mark.timeout(0),
]

FULL = "SLIDESCAN_KILLS" in os.environ
KILLS = int(os.environ.get("SLIDESCAN_KILLS", "2"))

# The short form has a file, a folder of two and a folder that is renamed as a whole.
NAMES = cases.NAMES if FULL else (*cases.NAMES[:6], "png", "dicom", "ngff04")

if FULL:  # the short form shares its processes with other tests
    processes.PRELOADED += [
        *("highdicom", "slidescan.commands.report", "slidescan.exports.dicom"),
        *("slidescan.exports.ome_tiff", "slidescan.exports.qupath", "slidescan.exports.tables"),
        *("slidescan.exports.pictures", "slidescan.report.pages", "slidescan.scanning.cohort"),
    ]


class Campaign:
    """Runs one command again and again, stops it at random moments and looks at what it leaves."""

    def __init__(self, name: str, case: Case, folder: Path, *, power: bool = False) -> None:
        """With `power`, files lose what was not on the disk when the command is stopped."""
        self.name, self.case, self.folder = name, case, folder
        self.log, self.syncs = folder.with_name("log"), folder.with_name("syncs")
        self._prepare = limits.recorded_syncs(self.syncs) if power else None
        self._run()
        self.expected, self._names = case.read(folder), self._left()
        self._clear()
        # The first run starts the processes that later ones are forked from.
        started = time.monotonic()
        self._run()
        self._seconds = time.monotonic() - started

    def _run(self) -> None:
        arguments = self.case.arguments(self.folder)
        code = processes.slidescan(*arguments, log=self.log, prepare=self._prepare)
        assert code == 0, self.log.read_text()

    def _clear(self) -> None:
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def _left(self) -> list[str]:
        """Everything in the folder, of maps and runs their names alone."""
        return sorted(
            name
            for name in (str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
            if ".zarr/" not in name and "events.out" not in name
        )

    def run(self, how: signal.Signals) -> None:
        """Stop the command KILLS times."""
        rng, ends = np.random.default_rng(0), Counter[str]()
        if self.case.afresh:
            self._clear()
        limits.all_synced(self.folder, self.syncs)
        for _ in range(KILLS):
            code = processes.stop(
                *self.case.arguments(self.folder),
                log=self.log,
                after_s=float(rng.uniform(0, self._seconds)),
                how=how,
                prepare=self._prepare,
            )
            ends["ended before" if code == 0 else "stopped"] += 1
            if self._prepare:
                ends["files that lost bytes"] += limits.fail_power(self.folder, self.syncs)
            self._check_end(code, how)
            found = self.case.read(self.folder)
            assert {name: self.expected[name] for name in found} == found
            if code == 0:
                self._whole()
                if self.case.afresh:
                    self._clear()
        self._run()
        self._whole()
        print(f"\n{how.name}{' and no power' * bool(self._prepare)}, {self.name}: {dict(ends)}")
        # On a machine whose load changes, the two moments of the short form may both be too late.
        assert ends["stopped"] > 0 or not FULL

    def _check_end(self, code: int, how: signal.Signals) -> None:
        """A signal that is obeyed leaves one line; before the command began, none."""
        if how == signal.SIGKILL or code in (0, -how):
            return
        told = self.log.read_text()
        assert code == 1, told
        if "Traceback" in told and "cli.py" not in told:
            return  # it stopped these tests as they were about to run the command
        if told.split() == ["Aborted!"]:
            return  # what click says as it parses the command line, and once the command has ended
        errors = [line for line in told.splitlines() if line.startswith("Error: ")]
        assert [line[:18] for line in errors] == ["Error: interrupted"] or not told, told
        assert "Traceback" not in told, told

    def _whole(self) -> None:
        """Everything is there and equal, and nothing else: no lock, no lease, no temporary file."""
        assert self.case.read(self.folder) == self.expected
        assert self._left() == self._names


@pytest.mark.parametrize("name", NAMES)
def test_kills(name: str, inputs: Inputs, folder: Path) -> None:
    Campaign(name, cases.case(name, inputs), folder).run(signal.SIGKILL)


@pytest.mark.parametrize("name", NAMES if FULL else ("cohort", "predict", "train"))
def test_power_failures(name: str, inputs: Inputs, folder: Path) -> None:
    Campaign(name, cases.case(name, inputs), folder, power=True).run(signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", NAMES if FULL else ("train", "report"))
def test_interruptions(name: str, how: signal.Signals, inputs: Inputs, folder: Path) -> None:
    Campaign(name, cases.case(name, inputs), folder).run(how)
