"""What distillation, mixup, averaging and longer training bring, on one split by one recipe.

    python -m benchmarks.accuracy.distillation --data DIR --ids configs/pcam-9300.txt \
        --teacher runs/teacher/last.safetensors --config configs/quick.yaml --seeds 3 --out FOLDER

Each row differs from the base only in what its name says. Evaluated are the weights of the last
epoch, so none were selected by the validation patches. A study that was stopped resumes with the
same command. Needs the extra `train`, and for an EfficientNet as teacher the extra `teacher`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from slidescan_train.loop.learner import to_input, tumour
from slidescan_train.teachers.lineage import HeldOut, doubt
from slidescan_train.teachers.teacher import Teacher, load_teachers, opinion

from benchmarks.support.reports import markdown
from benchmarks.support.studies import (
    Judged,
    Recipe,
    Scores,
    against,
    counted,
    draw,
    finish,
    in_batches,
    judge,
    number,
    one_line,
    options,
    spread,
    where,
)
from slidescan.errors import ConfigError
from slidescan.patches.labelled import Data, Patches


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    text: str
    changes: tuple[str, ...] = ()
    """Changes of settings, as for --set."""
    teacher: bool = False
    times: int = 1
    """Factor on the recipe's epochs."""
    of: str | None = None
    """The row whose networks predict here, averaged over D4; nothing is trained."""


BASE = "base"
MIXUP = "mixup=0.2"
ROWS = {
    BASE: Row("base: labels alone"),
    "teacher": Row("teacher", teacher=True),
    "teacher-mixup": Row("teacher and mixup", (MIXUP,), teacher=True),
    "mixup": Row("mixup", (MIXUP,)),
    "no-average": Row("no weight averaging", ("ema=0",)),
    "long": Row("twice the epochs", times=2),
    "long-teacher": Row("twice the epochs, teacher", teacher=True, times=2),
    "base-d4": Row("base, D4 averaging", of=BASE),
    "teacher-d4": Row("teacher, D4 averaging", of="teacher"),
}


def chosen(asked: Sequence[str]) -> list[str]:
    """The selected rows in the order of the table, and the base that they are compared with."""
    return [name for name in ROWS if not asked or name in asked or name == BASE]


def train_rows(
    recipe: Recipe, rows: Sequence[str], ids: Path | None, teachers: Sequence[str], seeds: int
) -> dict[str, list[tuple[Path, float]]]:
    """Train what `rows` need; weights and minutes of each seed, by row."""
    found: dict[str, list[tuple[Path, float]]] = {}
    epochs = recipe.settings().epochs
    for seed in range(seeds):  # the outer loop, so that a stopped study has complete seeds
        for name in dict.fromkeys(ROWS[name].of or name for name in rows):
            row = ROWS[name]
            changes = (*row.changes, f"epochs={row.times * epochs}", f"seed={seed}")
            told = teachers if row.teacher else ()
            trained = recipe.train(f"{name}-{seed}", ids, changes, told)
            found.setdefault(name, []).append(trained)
    return found


def taught(teachers: Sequence[Teacher], patches: Patches, device: torch.device) -> Scores:
    """Score the patches as a student is told: P(tumour), (1, N)."""
    return in_batches(
        lambda pixels: tumour(opinion(teachers, to_input(pixels, device))).cpu().numpy(), patches
    )[None]


def table(rows: Mapping[str, Judged], minutes: Mapping[str, float]) -> str:
    header = ("row", "AUC", "to the base", "NLL", "accuracy", "ECE", "minutes a run")
    return markdown(
        header,
        [
            (
                row.text,
                spread(row),
                against(row),
                *(number(row.mean[key].value) for key in ("nll", "accuracy", "ece")),
                f"{minutes[name]:.1f}" if name in minutes else "",
            )
            for name, row in rows.items()
        ],
    )


def notes(recipe: Recipe, data: Data, seeds: int, teachers: Sequence[Teacher]) -> str:
    lines = [
        f"{len(data.training)} training and {len(data.validation)} validation patches "
        f"({int(data.validation.labels.sum())} with tumour); {data.split}.",
        f"{seeds} seed{'s' * (seeds > 1)} a row, mean (lowest to highest); last epoch. Intervals: "
        "95 %, the same validation patches resampled for a row and its base, the seeds' metrics "
        "averaged. They take patches as independent and know nothing of further seeds.",
    ]
    for teacher in teachers:
        lines.append(f"Teacher: {teacher.name}, SHA-256 {teacher.record.sha256[:12]}...")
        if why := doubt("the teacher", teacher.record, HeldOut.of(data)[0]):
            lines.append(f"Warning: {why}.")
    about = recipe.record()
    lines.append(f"{about['config']}, {about['machine']}, {about['device']}, {about['date']}.")
    return "\n\n".join(lines)


@click.command()
@options
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    help="A model, or FILE.onnx. May be repeated: the probabilities are averaged.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--rows",
    type=click.Choice(list(ROWS)),
    multiple=True,
    help="Rows to train besides the base. [default: all; without --teacher those that need none]",
)
def main(
    teachers: tuple[str, ...],
    ids: Path | None,
    seeds: int,
    rows: tuple[str, ...],
    **common: Any,
) -> None:
    """Train the rows and print a table as Markdown; --out also gets JSON and a picture."""
    recipe = Recipe(**common)
    with one_line(recipe.out):
        taken = [name for name in chosen(rows) if teachers or rows or not _taught(name)]
        if not teachers and any(map(_taught, taken)):
            raise ConfigError("--rows with a teacher, and none is given; name it with --teacher")
        known = load_teachers(teachers, where(recipe.device))
        data = recipe.load(ids)
        trained = train_rows(recipe, taken, ids, teachers, seeds)
        report(recipe, data, taken, trained, known)


def _taught(name: str) -> bool:
    return ROWS[ROWS[name].of or name].teacher


def report(
    recipe: Recipe,
    data: Data,
    rows: Sequence[str],
    trained: Mapping[str, Sequence[tuple[Path, float]]],
    teachers: Sequence[Teacher],
) -> None:
    held_out = data.validation
    scores = {
        name: np.stack(
            [
                recipe.predict(weights, held_out, d4=ROWS[name].of is not None)
                for weights, _ in trained[ROWS[name].of or name]
            ]
        )
        for name in rows
    }
    judged = {
        name: judge(ROWS[name].text, held_out.labels, p, None if name == BASE else scores[BASE])
        for name, p in scores.items()
    }
    minutes = {name: float(np.mean([m for _, m in runs])) for name, runs in trained.items()}
    if teachers:
        own = taught(teachers, held_out, where(recipe.device))
        text = "the teachers' mean" if len(teachers) > 1 else "the teacher itself"
        judged["(teacher)"] = judge(text, held_out.labels, own, scores[BASE])
    seeds = len(trained[BASE])
    title = f"{len(held_out)} validation patches, {seeds} seed{'s' * (seeds > 1)}"
    draw(recipe.out / "distillation.png", title, "the base", list(judged.values()))
    finish(
        recipe.out,
        "distillation",
        f"{table(judged, minutes)}\n\n{notes(recipe, data, seeds, teachers)}",
        {
            "rows": {name: asdict(row) for name, row in judged.items()},
            "minutes_a_run": minutes,
            "seeds": seeds,
            "teachers": [{"name": t.name, "sha256": t.record.sha256} for t in teachers],
            "training": counted(data.training),
            "validation": counted(held_out),
            "split": data.split,
            **recipe.record(),
        },
    )


if __name__ == "__main__":
    main()
