"""TensorBoard event files, written in the calling thread."""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Self

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from slidescan.errors import WriteError
from slidescan.tools.atomic_files import writing
from slidescan_train.loop.history import SCORES, Epoch, Step, column, further_sets

FLUSH_S = 10.0
"""Longest delay until TensorBoard sees a step."""


class Events:
    """Writes the scalars of a run for TensorBoard, by optimiser step.

    tensorboard's own writers use a thread, in which a full disk causes a traceback or a process
    that waits forever. Here it raises `WriteError` in the caller.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Begin a file in `folder`, which is created.

        A resumed run continues at `purge_step`: TensorBoard hides what was recorded before of this
        and later steps.
        """
        # TensorBoard reads a folder's files in the order of their names.
        seconds, rest = divmod(time.time_ns(), 10**9)
        self.path = folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}"
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=purge_step, session_log=start)
        self._flush()

    def step(self, step: Step) -> None:
        """Add one optimiser step."""
        self._scalars(
            step.number, {"loss/step": step.loss, "learning_rate/step": step.learning_rate}
        )
        if time.monotonic() - self._flushed > FLUSH_S:
            self._flush()

    def epoch(self, epoch: Epoch, step: int) -> None:
        """Add an epoch, at the number of its last optimiser step."""
        scores = {
            f"{score}/{side}": getattr(epoch, f"{side}_{score}")
            for score in SCORES
            for side in ("training", "validation")
        }
        further = {
            f"{score}/validation/{name}": epoch.further[column(score, name)]
            for name in further_sets([epoch])
            for score in SCORES
        }
        speed = {
            "speed/images_per_second": epoch.images_per_second,
            "speed/waiting": epoch.waiting,
            "speed/seconds": epoch.seconds,
        }
        self._scalars(step, {"epoch": epoch.number, **scores, **further, **speed})
        self._flush()

    def close(self) -> None:
        with writing(self.path):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A disk that is still full must not hide the error that ended the run.
        with suppress(WriteError) if kind else nullcontext():
            self.close()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        entries = [summary_pb2.Summary.Value(tag=t, simple_value=v) for t, v in values.items()]
        self._write(step=step, summary=summary_pb2.Summary(value=entries))

    def _write(self, **content: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), **content)
        with writing(self.path):
            self._records.write(event.SerializeToString())

    def _flush(self) -> None:
        with writing(self.path):
            self._file.flush()
        self._flushed = time.monotonic()
