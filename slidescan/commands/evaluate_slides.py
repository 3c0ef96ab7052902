"""`slidescan evaluate slides`: how good are maps, of lesions, of slides and of cells?"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from slidescan.commands.options import PATH, Real, evaluation_libraries
from slidescan.commands.terminal import bar, open_slide_of, warn
from slidescan.errors import SlidescanError

if TYPE_CHECKING:
    from slidescan.evaluation.study import Study
    from slidescan.evaluation.truth import Truth
    from slidescan.maps.store import Heatmap


@click.command("slides")
@click.argument("maps", metavar="MAPS...", type=PATH, nargs=-1, required=True)
@click.option(
    "--annotations",
    type=PATH,
    required=True,
    help="Folder of annotations (ASAP .xml, NCRF .json, QuPath .geojson), named as the slides.",
)
@click.option(
    "--reference", type=PATH, help="CSV (slide,label): which slides are tumour or normal."
)
@click.option(
    "--normal-prefix",
    default="",
    metavar="TEXT",
    help="Slides whose name begins so are normal, e.g. normal_.",
)
@click.option(
    "--unannotated",
    type=click.Choice(["refuse", "normal"]),
    default="refuse",
    show_default=True,
    help="What it means that a slide has no annotations, where nothing else says it is normal.",
)
@click.option(
    "--slides", type=PATH, help="Folder of the slides: each map is checked to be of its slide."
)
@click.option("--out", type=PATH, help="Folder for metrics.json, metrics.md, detections.csv, PNGs.")
@click.option("--partial", is_flag=True, help="Take unfinished maps as they are.")
@click.option(
    "--threshold",
    type=Real(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Detections and Dice: tumour from this probability on.",
)
@click.option(
    "--radius",
    type=Real(0, 1e5),
    default=187.0,
    show_default=True,
    help="Of non-maximum suppression, um.",
)
@click.option(
    "--um-per-px",
    type=Real(0, min_open=True),
    help="Evaluate on the coarsest level of the maps that is no coarser. [default: their cells]",
)
@click.option(
    "--itc-normal", is_flag=True, help="Slides with isolated tumour cells alone count as normal."
)
@click.option(
    "--splits", type=PATH, help="CSV (slide,fold) for the forest. [default: leave one slide out]"
)
@click.option(
    "--resamples",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Of slides, for the intervals; 0 leaves them out.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def command(
    maps: tuple[Path, ...],
    annotations: Path,
    reference: Path | None,
    normal_prefix: str,
    unannotated: Literal["refuse", "normal"],
    slides: Path | None,
    out: Path | None,
    partial: bool,
    threshold: float,
    radius: float,
    um_per_px: float | None,
    itc_normal: bool,
    splits: Path | None,
    resamples: int,
    seed: int,
) -> None:
    """Compare MAPS, or the maps in folders, with the annotations of their slides.

    Lesions: Camelyon16's FROC, by non-maximum suppression and by connected components. Slides: AUC
    of single features of the map and of a random forest on all of them. Cells: Dice, AUC and
    average precision where it was scanned. One bad map does not stop the others; exit code 1 if
    there was any.
    """
    with evaluation_libraries():
        import monai.metrics.froc  # noqa: F401  # now, not once for each map
        import sklearn.ensemble  # noqa: F401

        from slidescan.evaluation import compare_slide, slide_report
        from slidescan.evaluation.report import make_folder, text, write
        from slidescan.evaluation.study import Study, read_folds, write_detections
        from slidescan.evaluation.truth import Truth

    found = compare_slide.find_maps(maps)
    truth = Truth.of(
        annotations, reference, normal_prefix, unannotated_normal=unannotated == "normal"
    )
    study = Study(compare_slide.SlideChoices(threshold, radius, um_per_px, itc_normal, partial))
    if out:
        make_folder(out)
    _compare(study, truth, found, slides)
    if not study.cases:
        raise SlidescanError(f"none of {len(found)} maps could be evaluated")
    folds = read_folds(splits, study.cases)
    steps = slide_report.steps(study, folds, resamples)
    with bar("summing up", steps, "step") as done:
        findings = slide_report.summarise(study, folds, resamples, seed, done.update)
    click.echo(text(findings.report))
    if out:
        write_detections(out / "detections.csv", study.cases)
        slide_report.draw(out, study, findings)
        write(out, findings.report)
        click.echo(f"{out}: written")
    if study.failed:
        raise SlidescanError(
            f"{len(study.failed)} of {len(found)} maps failed and are in no figure above"
        )


def _compare(study: Study, truth: Truth, maps: list[Path], slides: Path | None) -> None:
    """Every map, one after the other; what is wrong with one is said and kept."""
    with bar("comparing", len(maps), "map") as done:
        for path in maps:
            try:
                _compare_one(study, truth, path, slides)
            except SlidescanError as error:
                click.echo(f"Error: {error}", err=True)
                study.failed[str(path)] = str(error)
            except Exception as error:  # a bug, but the other slides must not pay for it
                traceback.print_exc()
                study.failed[str(path)] = f"{type(error).__name__}: {error}"
            done.update(1)
    unused = truth.unused([case.annotations for case in study.cases])
    if unused and not study.failed:  # a map that failed may be the one they belong to
        warn(f"{truth.folder}: {len(unused)} of its files belong to no map, e.g. {unused[0]}")


def _compare_one(study: Study, truth: Truth, path: Path, slides: Path | None) -> None:
    from slidescan.evaluation.compare_slide import evaluate
    from slidescan.maps.store import Heatmap

    with Heatmap.open(path) as heatmap:
        study.admit(heatmap)
        if slides:
            _check_slide(heatmap, slides)
        study.add(heatmap, *evaluate(heatmap, truth, study.choices))


def _check_slide(heatmap: Heatmap, slides: Path) -> None:
    """Refuse a map that was made from another slide than the one of its name in `slides`."""
    from slidescan.evaluation.compare_slide import names

    with open_slide_of(heatmap, slides / names(heatmap)[0]):
        pass
