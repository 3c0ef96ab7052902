"""Accuracy on an unseen stain: patches are clustered by colour, and each cluster is left out once.

    python -m benchmarks.accuracy.stains --data DIR --ids configs/pcam-9300.txt \
        --config configs/quick.yaml --out FOLDER [--clusters 5] [--seeds 3]
    python -m benchmarks.accuracy.stains --data DIR --ids configs/pcam-9300.txt \
        --model default --out FOLDER

The first command trains a network with all patches and, for each cluster, one without the cluster's
patches and one with as few patches of the same labels, drawn from all clusters: fewer patches cost
accuracy whatever their colour. All are evaluated on the cluster's validation patches, which none
was trained on or selected by. The second command trains nothing: it evaluates a model on each
cluster and draws its worst mistakes there.

Without --clusters their number is that of the highest silhouette. A study that was stopped resumes
with the same command. Where DIR has more patches than --ids names, each training packs its own
(0.25 GB for 9,300, see --cache). Needs the extra `train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from slidescan_train.teachers.lineage import HeldOut, doubt

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
from slidescan.commands.terminal import plain_bar, warn
from slidescan.errors import DataError
from slidescan.models.model import load
from slidescan.patches.labelled import Data, Patches
from slidescan.pictures import grids
from slidescan.statistics.mistakes import worst_mistakes
from slidescan.tools.atomic_files import replacing
from slidescan.tools.csv_tables import write_table

DENSITY = -np.log10((np.arange(256, dtype=np.float32) + 0.5) / 256)
"""Optical density of each value; above 0 for white too, so that every colour has a direction."""
STAINED = 3 * 0.15
"""Sum of red, green and blue densities below which a pixel is glass (Macenko et al. 2009)."""
FEWEST = 92
"""At least so many pixels, the densest hundredth of a patch, count as stained."""
COUNTS = range(2, 9)
"""The numbers of clusters to try."""
SAMPLE = 2000
"""Patches to compute a silhouette on."""
LEAST = 200
"""The fewest patches of a study."""
SHOWN, COLUMNS = 20, 10
"""Patches of a cluster on a sheet, and patches a row."""


# --- clusters -------------------------------------------------------------------------------------


def colour(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colours of one patch (9,): the hues of its densest and its palest stained quarter, mean RGB.

    A hue is the median share of red, green and blue in a pixel's optical density. It does not
    depend on the density itself, which differs between nuclei and stroma more than between
    laboratories. The two quarters separate nuclei from stroma, because patches have different
    amounts of each.
    """
    densities = DENSITY[pixels].reshape(-1, 3)
    totals = densities.sum(axis=1)
    stained = totals >= min(STAINED, np.partition(totals, -FEWEST)[-FEWEST])
    totals, shares = totals[stained], densities[stained] / totals[stained, None]
    pale, dense = np.quantile(totals, (0.25, 0.75))
    return np.concatenate(
        [
            np.median(shares[totals >= dense], axis=0),
            np.median(shares[totals <= pale], axis=0),
            pixels.reshape(-1, 3)[stained].mean(axis=0),
        ]
    )


def colours(patches: Patches) -> NDArray[np.float32]:
    """The colours of each patch, (N, 9)."""
    rows = plain_bar(range(len(patches)), desc="colours", unit="patch")
    return np.stack([colour(patches.pixels(row)) for row in rows])


def cluster(hues: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The cluster of each patch, (N,), numbered from 1 for the largest."""
    found = KMeans(count, n_init=10, random_state=0).fit_predict(hues)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    place = np.empty(count, np.int64)
    place[order] = np.arange(1, count + 1)
    return np.asarray(place[found])


def silhouettes(hues: NDArray[np.float32]) -> dict[int, float]:
    """The silhouette for each number of clusters: 1 if they are far apart, 0 if they overlap."""
    some = min(SAMPLE, len(hues))
    return {
        count: float(silhouette_score(hues, cluster(hues, count), sample_size=some, random_state=0))
        for count in COUNTS
    }


@dataclass(frozen=True, slots=True)
class Clusters:
    """The patches of a study and their clusters."""

    data: Data
    of_training: NDArray[np.int64]
    of_validation: NDArray[np.int64]
    rgb: NDArray[np.float32]
    """(N, 3): mean colour of each patch's stained pixels, training patches first."""
    silhouettes: Mapping[int, float]

    @classmethod
    def find(cls, data: Data, count: int | None) -> Clusters:
        """Cluster the patches. Raises `DataError` if a cluster has no validation patch."""
        patches = len(data.training) + len(data.validation)
        if patches < LEAST:
            raise DataError(f"{patches} patches are too few to cluster; take {LEAST} or more")
        found = np.concatenate([colours(data.training), colours(data.validation)])
        hues, rgb = found[:, :6], found[:, 6:]
        tried = silhouettes(hues)
        count = count or max(tried, key=tried.__getitem__)
        of = cluster(hues, count)
        training, held_out = np.split(of, [len(data.training)])
        without = set(range(1, count + 1)) - set(held_out.tolist())
        if without:
            raise DataError(
                f"cluster {min(without)} of {count} has none of the {len(held_out)} validation "
                "patches; take fewer --clusters, or more patches"
            )
        return cls(data, training, held_out, rgb, tried)

    @property
    def numbers(self) -> range:
        return range(1, 1 + int(self.of_validation.max()))

    def sides(self, number: int) -> tuple[Patches, Patches]:
        """Training and validation patches of one cluster."""
        return (
            self.data.training.take(np.flatnonzero(self.of_training == number)),
            self.data.validation.take(np.flatnonzero(self.of_validation == number)),
        )

    def about(self, number: int) -> dict[str, Any]:
        training, held_out = map(counted, self.sides(number))
        mine = np.concatenate([self.of_training, self.of_validation]) == number
        patches = training["patches"] + held_out["patches"]
        return {
            "patches": patches,
            "tumour": (training["tumour"] + held_out["tumour"]) / patches,
            "rgb": [round(float(value)) for value in self.rgb[mine].mean(axis=0)],
            "training": training,
            "validation": held_out,
        }

    def without(self, number: int) -> list[str]:
        """All ids except the cluster's, on both sides of the split."""
        return [
            *_ids(self.data.training, self.of_training != number),
            *_ids(self.data.validation, self.of_validation != number),
        ]

    def as_few(self, number: int) -> list[str]:
        """Ids as many as without the cluster, for each label; training patches of all clusters."""
        labels, rng = self.data.training.labels, np.random.default_rng(number)
        kept = np.zeros(len(labels), bool)
        for label in 0, 1:
            rows = np.flatnonzero(labels == label)
            most = np.count_nonzero(self.of_training[rows] != number)
            kept[rng.choice(rows, most, replace=False)] = True
        return [
            *_ids(self.data.training, kept),
            *_ids(self.data.validation, self.of_validation != number),
        ]


def _ids(patches: Patches, chosen: NDArray[np.bool_]) -> list[str]:
    return [patches.ids[row] for row in np.flatnonzero(chosen)]


def write_clusters(out: Path, found: Clusters) -> None:
    """Write a table of the patches and a sheet of random examples."""
    sides = (found.data.training, found.of_training), (found.data.validation, found.of_validation)
    rows = sorted(row for side, of in sides for row in zip(side.ids, of.tolist(), strict=True))
    write_table(out / "clusters.csv", ("id", "cluster"), rows)
    rng = np.random.default_rng(0)
    sections = []
    for place in found.numbers:
        patches, about = found.sides(place)[0], found.about(place)
        drawn = rng.permutation(len(patches))[:SHOWN]
        heading = f"Cluster {place}: {about['patches']:,} patches, {about['tumour']:.0%} tumour"
        sections.append((heading, [(patches.pixels(row), "") for row in drawn]))
    sheet = grids.sheet(sections, COLUMNS, "Clusters by colour, patches at random", mark=False)
    with replacing(out / "clusters.jpg") as beside:
        sheet.save(beside, quality=85)


def chosen_by(found: Clusters) -> str:
    tried = ", ".join(f"{count}: {value:.2f}" for count, value in found.silhouettes.items())
    return (
        f"k-means of the hue of the densest and the palest quarter of each patch's stained pixels, "
        f"{len(found.numbers)} clusters; silhouette by their number: {tried}. Colour is stain and "
        "tissue together: clusters differ in what they show, too."
    )


# --- the study ------------------------------------------------------------------------------------

ALL, AS_FEW, WITHOUT = "all", "as-few", "without"
TEXTS = {ALL: "all patches", AS_FEW: "as few, all stains", WITHOUT: "without it"}


def train_networks(recipe: Recipe, found: Clusters, seeds: int, control: bool) -> dict[str, Scores]:
    """Train all networks; P(tumour) of all validation patches, (S, N), by the network's name."""
    lists = {ALL: [*found.data.training.ids, *found.data.validation.ids]}
    for place in found.numbers:
        lists[f"{WITHOUT}-{place}"] = found.without(place)
        if control:
            lists[f"{AS_FEW}-{place}"] = found.as_few(place)
    scores: dict[str, list[Scores]] = {}
    for seed in range(seeds):  # the outer loop, so that a stopped study has complete seeds
        for name, ids in lists.items():
            path = recipe.out / f"{name}.txt"
            with replacing(path) as beside:
                beside.write_text("".join(f"{i}\n" for i in ids))
            weights, _ = recipe.train(f"{name}-{seed}", path, [f"seed={seed}"])
            scores.setdefault(name, []).append(recipe.predict(weights, found.data.validation))
    return {name: np.stack(of) for name, of in scores.items()}


def judge_cluster(found: Clusters, place: int, scores: Mapping[str, Scores]) -> dict[str, Judged]:
    """Evaluate the networks on the cluster's validation patches.

    The one trained without the cluster is compared with the one trained on as few patches or,
    without that control, on all.
    """
    mine = found.of_validation == place
    labels = found.data.validation.labels[mine]
    parts = {ALL: scores[ALL][:, mine]}
    for name in AS_FEW, WITHOUT:
        if f"{name}-{place}" in scores:
            parts[name] = scores[f"{name}-{place}"][:, mine]
    base = parts.get(AS_FEW, parts[ALL])
    return {
        name: judge(f"{place}: {TEXTS[name]}", labels, p, base if name == WITHOUT else None)
        for name, p in parts.items()
    }


def study(recipe: Recipe, found: Clusters, seeds: int, control: bool) -> None:
    scores = train_networks(recipe, found, seeds, control)
    judged = {place: judge_cluster(found, place, scores) for place in found.numbers}
    than = TEXTS[AS_FEW if control else ALL]
    lines = [line for rows in judged.values() for line in rows.values()]
    draw(recipe.out / "stains.png", "Each cluster's validation patches", f"'{than}'", lines)
    text = "\n\n".join([_table(found, judged, than), _notes(recipe, found, seeds, control)])
    clusters = {
        place: {
            **found.about(place),
            "networks": {name: asdict(row) for name, row in judged[place].items()},
        }
        for place in found.numbers
    }
    finish(
        recipe.out,
        "stains",
        text,
        {
            "clusters": clusters,
            "silhouettes": found.silhouettes,
            "compared_with": than,
            "seeds": seeds,
            "split": found.data.split,
            **recipe.record(),
        },
    )


def _table(found: Clusters, judged: Mapping[int, Mapping[str, Judged]], than: str) -> str:
    rows = []
    for place, networks in judged.items():
        aucs = [spread(networks[name]) if name in networks else "" for name in TEXTS]
        lost = networks[WITHOUT]
        before = networks.get(AS_FEW, networks[ALL])
        accuracies = [number(row.mean["accuracy"].value) for row in (before, lost)]
        rows.append([*_described(found, place), *aucs, against(lost), ", ".join(accuracies)])
    named = [f"AUC, {text}" for text in TEXTS.values()]
    return markdown(
        [*HEADER, *named, f"difference to {than}", f"accuracy, {than} and without"], rows
    )


HEADER = ("cluster", "patches", "tumour", "mean RGB", "validation (tumour)")


def _described(found: Clusters, place: int) -> list[str]:
    about = found.about(place)
    held_out = about["validation"]
    return [
        str(place),
        f"{about['patches']:,}",
        f"{about['tumour']:.0%}",
        " ".join(map(str, about["rgb"])),
        f"{held_out['patches']} ({held_out['tumour']})",
    ]


def _notes(recipe: Recipe, found: Clusters, seeds: int, control: bool) -> str:
    about = recipe.record()
    lines = [
        chosen_by(found),
        f"{found.data.split}. Patches of one slide may lie in two clusters.",
        f"{seeds} seed{'s' * (seeds > 1)}, mean (lowest to highest); last epoch. Intervals: 95 %, "
        "the same patches resampled on both sides; they treat patches as independent and leave "
        "out the variation between seeds.",
    ]
    if not control:
        lines.append("A part of the difference is that of the smaller training set (--control).")
    lines.append(f"{about['config']}, {about['machine']}, {about['device']}, {about['date']}.")
    return "\n\n".join(lines)


# --- mistakes of a model --------------------------------------------------------------------------


def show_model(recipe: Recipe, found: Clusters, model: str) -> None:
    """Evaluate a model on each cluster and draw its worst mistakes there."""
    held_out = found.data.validation
    loaded = load(model)
    if why := doubt("--model", loaded.ancestor, HeldOut.of(found.data)[0]):
        warn(why)
    p = recipe.predict(model, held_out)
    rows, judged = [], {}
    for place in found.numbers:
        mine = np.flatnonzero(found.of_validation == place)
        part, own = held_out.take(mine), p[mine]
        judged[place] = judge(f"cluster {place}", part.labels, own[None])
        _draw_mistakes(recipe.out, place, loaded.card.name, part, own)
        wrong = [np.count_nonzero((own >= 0.5) & (part.labels == 0)),
                 np.count_nonzero((own < 0.5) & (part.labels == 1))]  # fmt: skip
        auc = judged[place].mean["roc_auc"]
        interval = f"{number(auc.value)} ({number(auc.low)} to {number(auc.high)})"
        rows.append([*_described(found, place), interval, *map(str, wrong)])
    header = [*HEADER, "AUC (95 %)", "false positives", "false negatives"]
    text = f"{markdown(header, rows)}\n\n{loaded.card.name}. {chosen_by(found)}"
    result = {"model": loaded.identity, "clusters": {k: asdict(v) for k, v in judged.items()}}
    finish(recipe.out, "model", text, {**result, "split": found.data.split, **recipe.record()})


def _draw_mistakes(out: Path, place: int, name: str, patches: Patches, p: Scores) -> None:
    worst = np.concatenate(worst_mistakes(patches.labels, p, SHOWN))
    shown = patches.take(worst)
    grids.mistakes(
        out / f"mistakes-{place}.jpg",
        shown.pixels(),
        shown.labels,
        p[worst],
        shown.ids,
        most=SHOWN,
        title=f"Cluster {place}: worst mistakes of {name} on its {len(patches)} validation "
        "patches; the label is about the square of 32 px",
    )


@click.command()
@options
@click.option("--clusters", type=click.IntRange(2, 20), help="[default: best silhouette, 2 to 8]")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--control/--no-control",
    default=True,
    show_default=True,
    help="Also train with as few patches of all stains.",
)
@click.option("--model", help="Evaluate this model by cluster; train nothing.")
def main(
    ids: Path | None,
    clusters: int | None,
    seeds: int,
    control: bool,
    model: str | None,
    **common: Any,
) -> None:
    """Print a table as Markdown; --out also gets JSON and pictures."""
    recipe = Recipe(**common)
    with one_line(recipe.out):
        found = Clusters.find(recipe.load(ids), clusters)
        write_clusters(recipe.out, found)
        if model:
            show_model(recipe, found, model)
        else:
            study(recipe, found, seeds, control)


if __name__ == "__main__":
    main()
