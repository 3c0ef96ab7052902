"""`slidescan evaluate slides`: compare maps with annotations, by lesion, slide and cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from slidescan.commands.options import (
    PATH,
    PLACE,
    Real,
    Threshold,
    check_use_of_model,
    evaluation_libraries,
    resolve_threshold,
    tumour_class_option,
)
from slidescan.commands.terminal import bar, open_slide_of, print_error, warn
from slidescan.errors import SlidescanError

if TYPE_CHECKING:
    from slidescan.evaluation.study import Study
    from slidescan.evaluation.truth import Truth
    from slidescan.maps.store import Heatmap
    from slidescan.tools.urls import Place


@click.command("slides")
@click.argument("maps", metavar="MAPS...", type=PLACE, nargs=-1, required=True)
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
    help="Slides whose names start with TEXT are normal, e.g. normal_.",
)
@click.option(
    "--unannotated",
    type=click.Choice(["refuse", "normal"]),
    default="refuse",
    show_default=True,
    help="Slides without annotations that nothing else calls normal: refuse them, or take them as "
    "normal.",
)
@tumour_class_option
@click.option(
    "--slides",
    type=PATH,
    help="Folder of the slides, to check that each map was made from its slide.",
)
@click.option("--partial", is_flag=True, help="Evaluate unfinished maps as they are.")
@click.option(
    "--threshold",
    type=Threshold(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Probability from which cells are detections, and tumour in Dice. A name, e.g. sens95, is "
    "looked up in the card of the model that made the maps.",
)
@click.option(
    "--model",
    help="The model that made the maps, for a named --threshold: FILE.safetensors or a run's "
    "folder. [default: the shipped model that the maps name]",
)
@click.option(
    "--radius",
    type=Real(0, 1e5),
    default=187.0,
    show_default=True,
    help="Radius of non-maximum suppression, um.",
)
@click.option(
    "--um-per-px",
    type=Real(0, min_open=True),
    help="Evaluate on the coarsest level of the maps that is not coarser than this. [default: the "
    "cells of the maps]",
)
@click.option(
    "--itc-normal",
    is_flag=True,
    help="Count slides that have only isolated tumour cells as normal.",
)
@click.option(
    "--splits",
    type=PATH,
    help="CSV (slide,fold): folds of the random forest. [default: leave one slide out]",
)
@click.option(
    "--resamples",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Bootstrap resamples of slides for the intervals; 0 gives none.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the bootstrap and of the random forest.",
)
@click.option("--out", type=PATH, help="Folder for metrics.json, metrics.md, detections.csv, PNGs.")
def command(
    maps: tuple[Place, ...],
    annotations: Path,
    reference: Path | None,
    normal_prefix: str,
    unannotated: Literal["refuse", "normal"],
    tumour_classes: tuple[str, ...],
    slides: Path | None,
    out: Path | None,
    partial: bool,
    threshold: float | str,
    model: str | None,
    radius: float,
    um_per_px: float | None,
    itc_normal: bool,
    splits: Path | None,
    resamples: int,
    seed: int,
) -> None:
    """Compare MAPS, or the maps in folders, with the annotations of their slides.

    Lesions: Camelyon16's FROC, by non-maximum suppression and by connected components. Slides: ROC
    AUC of single features of the map and of a random forest on all features. Cells: Dice, ROC AUC
    and average precision where the slide was scanned. One bad map does not stop the others; the
    exit code is 1 if there was one.

    \b
    Examples:
      slidescan evaluate slides maps --annotations annotations --normal-prefix normal_
      slidescan evaluate slides maps --annotations annotations --unannotated normal --out report
    """
    from slidescan.commands.checks import check_exist
    from slidescan.evaluation.paths import find_maps
    from slidescan.evaluation.truth import Truth

    check_exist(reference, splits, slides)
    check_use_of_model(model, threshold)
    found = find_maps(maps)
    truth = Truth.of(
        annotations, reference, normal_prefix, unannotated_normal=unannotated == "normal"
    )
    with evaluation_libraries():
        import monai.metrics.froc  # noqa: F401  # once, before the maps
        import sklearn.ensemble  # noqa: F401

        from slidescan.evaluation import slide_report
        from slidescan.evaluation.compare_slide import SlideChoices
        from slidescan.evaluation.report import make_folder, text, write
        from slidescan.evaluation.study import Study, read_folds, write_detections

    value = resolve_threshold(threshold, found, model)
    choices = SlideChoices(value, radius, um_per_px, itc_normal, partial, tumour_classes)
    study = Study(choices)
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
            f"{len(study.failed)} of {len(found)} maps failed and are left out of the figures"
        )


def _compare(study: Study, truth: Truth, maps: list[Place], slides: Path | None) -> None:
    """Compare the maps one after the other; print and keep what is wrong with one."""
    with bar("comparing", len(maps), "map") as done:
        for path in maps:
            try:
                _compare_one(study, truth, path, slides)
            except SlidescanError as error:
                print_error(error)
                study.failed[str(path)] = str(error)
            done.update(1)
    unused = truth.unused([case.annotations for case in study.cases])
    if unused and not study.failed:  # a map that failed may be the one they belong to
        warn(f"{truth.folder}: {len(unused)} files belong to no map, e.g. {unused[0]}")


def _compare_one(study: Study, truth: Truth, path: Place, slides: Path | None) -> None:
    from slidescan.evaluation.compare_slide import evaluate
    from slidescan.maps.finished import open_finished

    with open_finished(path, partial=True) as heatmap:  # `evaluate` decides on unfinished maps
        study.admit(heatmap)
        if slides:
            _check_slide(heatmap, slides)
        case, pixels = evaluate(heatmap, truth, study.choices)
        study.add(heatmap, case, pixels)
    for problem in case.problems:
        warn(f"{case.name}: {problem}")


def _check_slide(heatmap: Heatmap, slides: Path) -> None:
    """Refuse a map that was not made from the slide of its name in `slides`."""
    from slidescan.evaluation.compare_slide import names

    with open_slide_of(heatmap, slides / names(heatmap)[0]):
        pass
