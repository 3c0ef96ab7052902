"""How well unlike patches are told from patches like those of training, by several statistics.

    python -m benchmarks.accuracy.unlike DATA --training DATA [--slide FILE MPP ...] [--record]

DATA has Kaggle's layout, train/<id>.tif. A row of the table is a statistic and a threshold, a
column the share of sets of patches that are flagged. The threshold is passed by 1 % of the sets of
unchanged patches, either drawn from all (`mixed`) or from one of 20 clusters by colour
(`one colour`: as different from each other as slides may be, and more). The last row is what
`heatmap` and `predict` do: the limits of `models/familiarity.py`. `he_like` is the share of tissue
whose lowest channel is green; `colour` the Mahalanobis distance of mean, standard deviation and
correlations of the channels' optical densities, `sharpness` that of the energies of the Laplacian
at three scales.

IHC: haematoxylin stays, eosin becomes DAB (skimage.color). finer: the central 48 px enlarged to 96;
coarser: 96 px reduced to 48. Columns of slides have sets at the resolution of the patches, at twice
it and at half. --record writes the reference of the training patches into the shipped cards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.vq import kmeans2
from scipy.ndimage import gaussian_filter
from skimage.color import hed2rgb, rgb2hed

from benchmarks.support.reports import about, markdown, tell
from slidescan.geometry import PATCH_PX, Box
from slidescan.models import familiarity
from slidescan.models.card import locate, read_card, shipped_names, write_card
from slidescan.models.reference import Reference
from slidescan.patches.scoring import sample
from slidescan.patches.sources import find
from slidescan.slides.slide import Slide

Pixels = NDArray[np.uint8]
Figures = NDArray[np.float64]

MPP = 0.972
LANCZOS = Image.Resampling.LANCZOS
CLUSTERS = 20
CHUNK = 128
STATISTICS = {
    "colour": slice(1, 10),
    "sharpness": slice(10, 13),
    "colour + sharpness": slice(1, 13),
}
"""Columns of `describe` that a Mahalanobis distance is computed of."""
FIGURES = slice(13, 17)
CHOSEN = "four figures"


def ihc(pixels: Pixels) -> Pixels:
    stains = rgb2hed(pixels)
    haematoxylin, eosin = stains[..., 0], stains[..., 1]
    brown = hed2rgb(np.stack([haematoxylin, np.zeros_like(eosin), eosin], -1))
    return np.rint(np.clip(brown, 0, 1) * 255).astype(np.uint8)


def resized(pixels: Pixels, side: int) -> Pixels:
    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(one).resize(size, LANCZOS)) for one in pixels])


def grey(pixels: Pixels) -> Pixels:
    mean = np.rint(pixels.mean(-1, keepdims=True)).astype(np.uint8)
    return np.repeat(mean, 3, -1)


def blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(gaussian_filter(pixels, (0, sigma, sigma, 0)))


TRANSFORMS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "unchanged": lambda pixels: pixels,
    "BGR": lambda pixels: pixels[..., ::-1],
    "GRB": lambda pixels: pixels[..., [1, 0, 2]],
    "RBG": lambda pixels: pixels[..., [0, 2, 1]],
    "GBR": lambda pixels: pixels[..., [1, 2, 0]],
    "BRG": lambda pixels: pixels[..., [2, 0, 1]],
    "IHC": ihc,
    "finer": lambda pixels: resized(pixels[:, 24:72, 24:72], 96),
    "coarser": lambda pixels: resized(pixels, 48),
    "grey": grey,
    "inverted": lambda pixels: 255 - pixels,
    "blur 1.5": blurred(1.5),
    "blur 2": blurred(2),
    "blur 3": blurred(3),
}


def describe(pixels: Pixels) -> Figures:
    """The figures of `familiarity.measure`, and before them those of the other statistics."""
    density = familiarity.OD[pixels]
    mean_density = density.mean(-1)
    tissue = mean_density >= familiarity.TISSUE_OD
    kept = tissue.mean((1, 2)) >= familiarity.TISSUE_SHARE
    density, where = density[kept], tissue[kept]
    lowest = pixels[kept, :, :, 1] < pixels[kept][..., ::2].min(-1)
    count = where.sum((1, 2))
    green = (lowest & where).sum((1, 2)) / count
    stained = density * where[..., None]
    mean = stained.sum((1, 2)) / count[:, None]
    second = np.einsum("nhwi,nhwj->nij", stained, density) / count[:, None, None]
    covariance = second - mean[:, :, None] * mean[:, None] + familiarity.FLOOR**2 * np.eye(3)
    sd = np.sqrt(np.einsum("nii->ni", covariance))
    correlation = (covariance / (sd[:, :, None] * sd[:, None]))[:, *np.triu_indices(3, 1)]
    full = mean_density[kept]
    half = familiarity.halved(full)
    energies = [np.log(familiarity.energy(each)) for each in (full, half, familiarity.halved(half))]
    colours = green, np.log(mean + 0.02), np.log(sd), correlation
    return np.column_stack([*colours, *energies, familiarity.measure(pixels)])


def in_chunks(pixels: Pixels, change: Callable[[Pixels], Pixels]) -> Figures:
    starts = range(0, len(pixels), CHUNK)
    return np.concatenate(
        [describe(np.ascontiguousarray(change(pixels[i : i + CHUNK]))) for i in starts]
    )


def of_slide(path: Path, level0_mpp: float, mpp: float, count: int) -> Pixels:
    """Draw patches anywhere on a slide; only those with tissue are measured."""
    rng = np.random.default_rng(0)
    with Slide.open(path, level0_mpp) as slide:
        plane = slide.plane(mpp)
        height, width = (side - PATCH_PX for side in plane.shape_px)
        corners = zip(rng.integers(0, height, count), rng.integers(0, width, count), strict=True)
        return np.stack(
            [
                plane.read(Box(int(y), int(x), int(y) + PATCH_PX, int(x) + PATCH_PX))
                for y, x in corners
            ]
        )


def draw(figures: Figures, size: int, count: int, rng: np.random.Generator) -> Figures:
    """Means of sets of patches, (count, columns)."""
    chosen = (rng.choice(len(figures), size, replace=len(figures) < size) for _ in range(count))
    return np.stack([figures[rows].mean(0) for rows in chosen])


def by_colour(figures: Figures, size: int, count: int, rng: np.random.Generator) -> Figures:
    """Means of sets whose patches come from one cluster by mean colour."""
    _, cluster = kmeans2(figures[:, 1:4], CLUSTERS, minit="++", seed=0)
    parts = [figures[cluster == k] for k in range(CLUSTERS)]
    large = [part for part in parts if len(part) >= size]
    return np.concatenate([draw(part, size, count // len(large), rng) for part in large])


def mahalanobis(training: Figures, part: slice) -> Callable[[Figures], Figures]:
    known = training[:, part]
    centre, inverse = known.mean(0), np.linalg.inv(np.cov(known.T))

    def distance(sets: Figures) -> Figures:
        off = sets[:, part] - centre
        squared: Figures = np.einsum("ni,ij,nj->n", off, inverse, off)
        return np.sqrt(squared)

    return distance


def scorers(training: Figures, reference: Reference) -> dict[str, Callable[[Figures], Figures]]:
    """Score means of sets by each statistic: the larger, the more unlike."""
    return {
        "he_like": lambda sets: -sets[:, 0],
        **{name: mahalanobis(training, part) for name, part in STATISTICS.items()},
        CHOSEN: lambda sets: familiarity.relative(sets[:, FIGURES], reference).max(-1),
    }


def table(
    found: Mapping[str, Figures],
    scores: Mapping[str, Callable[[Figures], Figures]],
    size: int,
    count: int,
) -> list[list[object]]:
    """A row for each statistic and threshold: the threshold, and the percentage flagged."""
    rng = np.random.default_rng(0)
    sets = {name: draw(figures, size, count, rng) for name, figures in found.items()}
    clustered = by_colour(found["unchanged"], size, count, rng)
    rows: list[list[object]] = []
    for name, score in scores.items():
        limits = {
            "1 % of mixed": float(np.quantile(score(sets["unchanged"]), 0.99)),
            "1 % of one colour": float(np.quantile(score(clustered), 0.99)),
        }
        if name == CHOSEN:
            limits["1, as shipped"] = 1.0
        for how, limit in limits.items():
            shares = [np.mean(score(each) >= limit) for each in (clustered, *sets.values())]
            rows.append([name, how, f"{limit:.2f}", *(f"{100 * share:.0f}" for share in shares)])
    return rows


def read(folder: Path, count: int) -> Pixels:
    return sample(find(folder / "train"), count)


def read_others(folder: Path, count: int) -> Pixels:
    """The patches that `read` does not draw."""
    drawn = {patch.tobytes() for patch in read(folder, count)}
    every = read(folder, len(find(folder / "train").ids))
    return every[[patch.tobytes() not in drawn for patch in every]]


def record(reference: Reference) -> None:
    for name in shipped_names():
        card = read_card(name).model_copy(update={"reference": reference})
        write_card(locate(name)[1], card)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--training", type=click.Path(path_type=Path), required=True)
@click.option("--slide", "slides", type=(click.Path(path_type=Path), float), multiple=True)
@click.option("--patches", type=click.IntRange(100), default=3000, show_default=True)
@click.option("--others", is_flag=True, help="Measure the patches that are not drawn instead.")
@click.option("--size", type=click.IntRange(familiarity.LEAST), default=32, show_default=True)
@click.option("--sets", type=click.IntRange(100), default=1000, show_default=True)
@click.option("--record", "recording", is_flag=True, help="Write the reference into the cards.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the JSON here.")
def main(
    data: Path,
    training: Path,
    slides: tuple[tuple[Path, float], ...],
    patches: int,
    others: bool,
    size: int,
    sets: int,
    recording: bool,
    out: Path | None,
) -> None:
    """Print a table as Markdown, and the reference as JSON."""
    known = in_chunks(read(training, familiarity.SUMMARISED), lambda pixels: pixels)
    reference = familiarity.summarise(known[:, FIGURES])
    if reference is None:
        raise click.ClickException(f"{training}: too few patches with tissue")
    if recording:
        record(reference)
    unchanged = (read_others if others else read)(data, patches)
    found = {name: in_chunks(unchanged, change) for name, change in TRANSFORMS.items()}
    for path, level0_mpp in slides:
        for mpp in (MPP, MPP / 2, MPP * 2):
            pixels = of_slide(path, level0_mpp, mpp, 400)
            found[f"{path.stem} {mpp:g}"] = in_chunks(pixels, lambda pixels: pixels)
    rows = table(found, scorers(known, reference), size, sets)
    click.echo(markdown(["statistic", "threshold", "value", "one colour", *found], rows))
    tell({"reference": reference.model_dump(), "rows": rows, "size": size, **about()}, out)


if __name__ == "__main__":
    main()
