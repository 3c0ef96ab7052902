"""What a change of the recipe brings on slides that training has not seen, at one small budget.

    python -m benchmarks.accuracy.recipes --data DIR --validation OTHER_SLIDES \
        --config configs/quick.yaml --patches 4000 --epochs 8 --seeds 3 --out FOLDER

Each row differs from the first only in what its name says. All are evaluated on the patches of each
--validation folder and on the patches of DIR that are held out at random, with the weights of the
last epoch, so none were selected by either. A study that was stopped resumes with the same command;
the table in FOLDER is complete after every row. Needs the extra `train`.

`--row wide "plan.cells.0.filters=96; plan.cells.1.filters=96"` adds a row of your own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.support.reports import markdown
from benchmarks.support.studies import (
    Judged,
    Recipe,
    Scores,
    against,
    counted,
    draw,
    finish,
    judge,
    number,
    one_line,
    options,
    spread,
)
from slidescan.commands.terminal import plain_bar
from slidescan.errors import ConfigError, DataError
from slidescan.patches.labelled import Data, Patches, load_data
from slidescan.tools.atomic_files import replacing

BASE = "base"
RANDOM = "held out at random"
ROWS: Mapping[str, tuple[str, ...]] = {
    BASE: (),
    "no-hue": ("augment.hue.p=0",),
    "mild-hue": ("augment.hue.turn=0.1", "augment.hue.saturation=0.2"),
    "strong-stain": ("augment.stain={p: 1, scale: 0.7, shift: 0.3}",),
    "hed": ("augment.hed.p=0.57",),
    "hed-no-hue": ("augment.hed.p=0.57", "augment.hue.p=0"),
    "randstainna": ("augment.randstainna.p=0.5",),
    "mild-randstainna": ("augment.randstainna={p: 0.5, strength: 0.3}",),
    "randstainna-no-hue": ("augment.randstainna.p=0.5", "augment.hue.p=0"),
    "jpeg-blur": ("augment.one_of={jpeg: {p: 0.4}, blur: {p: 0.4}}",),
    "weight-decay": ("weight_decay=0.2",),
    "dropout": ("dropout=0.3",),
    "smoothing": ("label_smoothing=0.1",),
    "mixup": ("mixup=0.2",),
}
"""The changes of each row, as for --set."""


@dataclass(frozen=True, slots=True)
class Study:
    """What all rows have in common, and the results of the finished ones."""

    recipe: Recipe
    data: Data
    seeds: int
    ids: Path
    teachers: Sequence[str]
    yardsticks: Mapping[str, Patches]
    judged: dict[str, dict[str, Judged]] = field(default_factory=dict)
    """By row and yardstick."""
    minutes: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, changes: Sequence[str], base: Mapping[str, Scores]) -> dict[str, Any]:
        """Train and evaluate a row; its scores by yardstick. Without `base` it is the base."""
        runs = [
            self.recipe.train(f"{name}-{seed}", self.ids, (*changes, f"seed={seed}"), self.teachers)
            for seed in range(self.seeds)
        ]
        scores = {
            text: np.stack([self.recipe.predict(weights, patches) for weights, _ in runs])
            for text, patches in self.yardsticks.items()
        }
        self.judged[name] = {
            text: judge(name, self.yardsticks[text].labels, p, base.get(text))
            for text, p in scores.items()
        }
        self.minutes[name] = float(np.mean([minutes for _, minutes in runs]))
        return scores


def everything(folder: Path, cache: Path | None) -> Patches:
    """All patches of a folder, whatever its split."""
    data = load_data(folder, cache=cache, progress=plain_bar)
    first, second = data.training, data.validation
    return Patches(
        (*first.ids, *second.ids),
        np.concatenate([first.labels, second.labels]),
        first.stored,
        np.concatenate([first.rows, second.rows]),
    )


def choose(data: Data, count: int | None) -> tuple[str, ...]:
    """Ids of `count` training patches, drawn at random, and of all that are held out."""
    ids = data.training.ids
    if count is not None:
        if count > len(ids):
            raise DataError(f"--patches {count}: there are {len(ids)} training patches; lower it")
        rows = np.random.default_rng(0).choice(len(ids), count, replace=False)
        ids = tuple(ids[row] for row in np.sort(rows))
    return (*ids, *data.validation.ids)


def selected(asked: Sequence[str], own: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The rows to train, the base first. Raises `ConfigError` for a name that is taken."""
    rows = {n: changes for n, changes in ROWS.items() if n == BASE or not asked or n in asked}
    for name, text in own:
        if name in ROWS or not name.replace("-", "").isalnum():
            raise ConfigError(f"--row {name}: needs a new name of letters, digits and hyphens")
        rows[name] = tuple(change.strip() for change in text.split(";"))
    return rows


def table(study: Study) -> str:
    first = ("AUC", "to the base", "accuracy", "ECE")
    header = ["row", *(f"{text}: {key}" for text in study.yardsticks for key in first)]
    lines = []
    for name, judged in study.judged.items():
        cells = [
            cell
            for row in judged.values()
            for cell in (
                spread(row),
                against(row),
                number(row.mean["accuracy"].value),
                number(row.mean["ece"].value),
            )
        ]
        lines.append([name, *cells, f"{study.minutes[name]:.1f}"])
    return markdown([*header, "minutes a run"], lines)


def notes(study: Study, rows: Mapping[str, Sequence[str]]) -> str:
    about, sizes = study.recipe.record(), study.yardsticks.items()
    lines = [
        "; ".join(f"{name}: {', '.join(rows[name]) or 'the recipe'}" for name in study.judged)
        + ".",
        f"{len(study.data.training)} training patches. Evaluated on "
        + ", ".join(f"{len(p)} patches ({text})" for text, p in sizes)
        + ".",
        f"{study.seeds} seed{'s' * (study.seeds > 1)} a row, mean (lowest to highest); last epoch. "
        "Intervals: 95 %, the same patches resampled for a row and the base, the seeds' metrics "
        "averaged. They take patches as independent and know nothing of further seeds.",
        f"Teacher: {' + '.join(study.teachers) or 'none'}. "
        f"{about['config']}, {about['machine']}, {about['device']}, {about['date']}.",
    ]
    return "\n\n".join(lines)


def report(study: Study, rows: Mapping[str, Sequence[str]]) -> None:
    """Write the table, its figures and a picture for each yardstick, and print the table."""
    for place, text in enumerate(study.yardsticks):
        lines = [judged[text] for judged in study.judged.values()]
        title = f"{len(study.yardsticks[text])} patches, {text}"
        draw(study.recipe.out / f"recipes-{place}.png", title, "the base", lines)
    result = {
        "rows": {name: {t: asdict(j) for t, j in of.items()} for name, of in study.judged.items()},
        "changes": {name: list(rows[name]) for name in study.judged},
        "minutes_a_run": study.minutes,
        "seeds": study.seeds,
        "teachers": study.teachers,
        "training": counted(study.data.training),
        "yardsticks": {text: counted(patches) for text, patches in study.yardsticks.items()},
    }
    text = f"{table(study)}\n\n{notes(study, rows)}"
    finish(study.recipe.out, "recipes", text, {**study.recipe.record(), **result})


@click.command()
@options
@click.option(
    "--validation",
    "folders",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Labelled patches of other slides; may be repeated.",
)
@click.option("--patches", type=click.IntRange(1), help="Training patches to draw. [default: all]")
@click.option("--epochs", type=click.IntRange(1), help="[default: the recipe's]")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    help="A teacher for every row: a model, or FILE.onnx. May be repeated: the probabilities are "
    "averaged.",
)
@click.option(
    "--rows",
    "asked",
    type=click.Choice(list(ROWS)),
    multiple=True,
    help="Rows to train besides the base. [default: all]",
)
@click.option(
    "--row", "own", type=(str, str), multiple=True, metavar="NAME CHANGES", help="A row to add."
)
def main(
    ids: Path | None,
    folders: tuple[Path, ...],
    patches: int | None,
    epochs: int | None,
    seeds: int,
    teachers: tuple[str, ...],
    asked: tuple[str, ...],
    own: tuple[tuple[str, str], ...],
    changes: tuple[str, ...],
    **common: Any,
) -> None:
    """Train the rows and print the table after each; --out also gets JSON and pictures."""
    budget = () if epochs is None else (f"epochs={epochs}",)
    recipe = Recipe(changes=(*changes, *budget), **common)
    with one_line(recipe.out):
        rows = selected(asked, own)
        for row in rows.values():
            recipe.settings(*row)  # a mistyped setting is refused before the first training
        study = prepare(recipe, ids, folders, patches, seeds, teachers)
        base: Mapping[str, Scores] = {}
        for name, row in rows.items():
            scores = study.add(name, row, base)
            base = base or scores
            report(study, rows)


def prepare(
    recipe: Recipe,
    ids: Path | None,
    folders: Sequence[Path],
    patches: int | None,
    seeds: int,
    teachers: Sequence[str],
) -> Study:
    """Load the patches and write the list of those that every row is trained with."""
    yardsticks = {str(folder): everything(folder, recipe.cache) for folder in folders}
    taken = recipe.out / "patches.txt"
    chosen = choose(recipe.load(ids), patches)
    with replacing(taken) as beside:
        beside.write_text("".join(f"{patch_id}\n" for patch_id in chosen))
    data = recipe.load(taken)
    return Study(recipe, data, seeds, taken, teachers, {**yardsticks, RANDOM: data.validation})


if __name__ == "__main__":
    main()
