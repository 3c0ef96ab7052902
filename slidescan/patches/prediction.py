"""From patches to probabilities: joins models, engine, patches and the table on disk."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.engines import backend, ensemble
from slidescan.engines.averaging import Tta
from slidescan.errors import DataError
from slidescan.models import familiarity, model
from slidescan.patches.decoding import Bad
from slidescan.patches.journal import Journal
from slidescan.patches.scoring import Memory, Scores, sample, score, unfinished
from slidescan.patches.sources import Source
from slidescan.protocols import BATCH, Reporter
from slidescan.tools.atomic_files import replacing
from slidescan.tools.hardware import cores
from slidescan.tools.settings_diff import JSON

COLUMNS = ("id", "label")
"""Of Kaggle's sample_submission.csv; `label` holds P(tumour)."""


SAMPLED = 2 * familiarity.ENOUGH
"""Patches that are read to compare them with training; some hold too little tissue."""


PALE = 200
"""A colourless patch whose pixels are all brighter is glass."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to score patches."""

    models: tuple[str, ...] = (model.DEFAULT,)
    """several are averaged"""
    tta: Tta | None = None
    engine: backend.Name | None = None
    device: str = backend.AUTO
    precision: backend.Wanted = "fp32"
    threads: int | None = None
    cache: bool = True
    """keep compiled networks in the user's cache folder"""


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a table."""

    patches: int
    seconds: float


class Predictor:
    """Scores patches with one model or ensemble."""

    def __init__(self, options: Options) -> None:
        self.backend = backend.choose(
            options.engine, options.device, options.precision, options.threads or cores()
        )
        self.ensemble = ensemble.Ensemble.load(options.models, options.tta, options.cache)

    def score(
        self, source: Source, reporter: Reporter
    ) -> tuple[NDArray[np.float32], dict[int, Bad]]:
        """Probabilities (N,), NaN of patches that cannot be read, and why they cannot."""
        kept = Memory(len(source.ids))
        bad = self._score(source, kept, reporter)
        return kept.scores, bad

    def write_table(
        self, source: Source, order: Sequence[str], out: Path, skip_bad: bool, reporter: Reporter
    ) -> Summary:
        """Score patches and write the table once all are scored.

        Each batch is kept on disk beside `out`, from where a later call with the same settings
        resumes.

        Args:
            source: the patches.
            order: their ids in the order of the table.
            out: the table, CSV of id and label.
            skip_bad: leave out patches that cannot be read, instead of raising `DataError`.
            report: gets progress and warnings.
        """
        started = time.perf_counter()
        partial = out.with_name(f".{out.name}.partial")
        with Journal(partial, self.settings(source), len(source.ids)) as journal:
            if journal.other:
                reporter.warn(
                    f"{out}: an earlier run was made with other settings "
                    f"({'; '.join(journal.other)}); starting again"
                )
            bad = self._score(source, journal, reporter, str(out))
            _check_bad(bad, source, out, skip_bad, reporter)
            scores = {i: s for i, s in zip(source.ids, journal.scores, strict=True) if s == s}
            write_predictions(out, scores, order)
            journal.discard()
        return Summary(len(scores), time.perf_counter() - started)

    def settings(self, source: Source) -> dict[str, JSON]:
        """All that determines the numbers; a journal made with anything else is not resumed."""
        return {
            **self.ensemble.record(),
            **self.backend.record(),
            "batch": BATCH,
            "patches": source.digest(),
        }

    def _score(
        self, source: Source, kept: Scores, reporter: Reporter, out: str = ""
    ) -> dict[int, Bad]:
        count = len(kept.scores)
        done = count - sum(map(len, unfinished(kept)))
        if done < count:
            self._compare_with_training(source, reporter)
        with reporter.bar("predicting", count, "patch") as progress:
            if done:
                reporter.say(f"{out}: resuming, {done} of {count} patches are scored")
                progress.update(done)
            return score(
                source,
                lambda: self.ensemble.engine(self.backend),
                kept,
                self.backend.threads,
                progress.update,
            )

    def _compare_with_training(self, source: Source, reporter: Reporter) -> None:
        """Warn where the patches are unlike those of training."""
        references = self.ensemble.references
        patches = sample(source, SAMPLED)
        grey = count_grey(patches)
        if grey:
            reporter.warn(
                f"{grey} of {len(patches)} patches that were looked at are grey; the models were "
                "trained on H&E in colour"
            )
        if not any(references):
            return
        found = familiarity.judge(patches, references)
        if found and found.unlike:
            reporter.warn(f"the patches are {found.warning()}")


def count_grey(patches: NDArray[np.uint8]) -> int:
    """How many of (N, 96, 96, 3) have no colour at all, though they are not glass alone.

    >>> count_grey(np.stack([np.full((96, 96, 3), level, np.uint8) for level in (90, 250)]))
    1
    """
    colourless = (patches == patches[..., :1]).all(axis=(1, 2, 3))
    return int(np.count_nonzero(colourless & (patches.min(axis=(1, 2, 3), initial=255) < PALE)))


def _check_bad(
    bad: Mapping[int, Bad], source: Source, out: Path, skip_bad: bool, reporter: Reporter
) -> None:
    """List the patches that cannot be read, and refuse them unless they may be left out."""
    for row, why in bad.items():
        reporter.warn(f"{source.name(row)}: {why}")
    if bad and not skip_bad:
        raise DataError(
            f"{len(bad)} of {len(source.ids)} patches cannot be scored, so {out} is not written; "
            "correct them, or pass --skip-bad to leave them out; the scores of the others are kept"
        )


def write_predictions(path: Path, scores: Mapping[str, np.float32], order: Iterable[str]) -> None:
    """Write CSV of id and label in this order, without the ids that have no score.

    A probability has as many digits as distinguish it from every other float32.

    Raises:
        WriteError: the table cannot be written.
    """
    with (
        replacing(path) as beside,
        # File names need not be UTF-8.
        beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((i, str(scores[i])) for i in order if i in scores)
