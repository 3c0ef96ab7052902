"""Options and checks that the exports of maps share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slidescan.commands.options import (
    PLACE,
    Real,
    Threshold,
    check_use_of_model,
    resolve_threshold,
)
from slidescan.commands.terminal import open_slide_of, warn

if TYPE_CHECKING:
    from slidescan.exports.qupath import Corner
    from slidescan.maps.regions import Rule
    from slidescan.maps.store import Heatmap
    from slidescan.tools.urls import Place

F = TypeVar("F", bound=Callable[..., Any])

THRESHOLD = 0.5

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing file.")
partial_option = click.option(
    "--partial", is_flag=True, help="Take an unfinished map as it is, and say how much is scanned."
)

slide_for_crop_option = click.option(
    "--slide",
    "slide_path",
    type=PLACE,
    help="The slide of the map, which is then checked. Needed only for maps that do not record "
    "which part of the slide QuPath shows.",
)
no_crop_option = click.option(
    "--no-crop",
    is_flag=True,
    help="Keep coordinates of level 0. QuPath crops some slides (MRXS) to their scanned part, "
    "which the coordinates follow by default; other programs do not.",
)


def target_options(command: F) -> F:
    """--partial, --overwrite."""
    return partial_option(overwrite_option(command))


def threshold_options(default: float | None, meaning: str) -> Callable[[F], F]:
    """--threshold, and --model where the threshold is named; `meaning` is for the help."""

    def decorate(command: F) -> F:
        model = click.option(
            "--model",
            help="The model that made the map, for a named threshold: FILE.safetensors or a run's "
            "folder. [default: the shipped model that the map names]",
        )
        threshold = click.option(
            "--threshold",
            type=Threshold(0, 1, min_open=True),
            default=default,
            show_default=default is not None,
            help=f"{meaning} A name, e.g. sens95, is looked up in the card of the model that made "
            "the map.",
        )
        return threshold(model(command))

    return decorate


def region_options(command: F) -> F:
    """--threshold, --low, --min-area, --model: what a region is."""
    return threshold_options(THRESHOLD, "Probability from which cells form regions.")(
        further_region_options(command)
    )


def further_region_options(command: F) -> F:
    """--low, --min-area."""
    low = click.option(
        "--low",
        type=Threshold(0, 1, min_open=True),
        help="Hysteresis: regions extend over cells from this probability up, and one cell must "
        "reach --threshold. [default: none]",
    )
    area = click.option(
        "--min-area",
        type=Real(0, 1e12),
        default=900.0,  # slidescan.maps.regions.MIN_AREA_UM2, without its imports
        show_default=True,
        help="Leave out smaller regions, um2. A single tumour pixel makes 967 um2 of a perfect "
        "map.",
    )
    return low(area(command))


@dataclass(frozen=True, slots=True)
class RuleChoices:
    """What the user asked for: numbers, or names of operating points."""

    threshold: float | str
    low: float | str | None
    min_area: float
    model: str | None

    def __post_init__(self) -> None:
        """Raises ConfigError where a model is named for no threshold."""
        check_use_of_model(self.model, self.threshold, self.low)

    def rule(self, map_path: Place) -> Rule:
        """Look up what is named.

        Raises:
            ConfigError: the low threshold is above the other.
            MapError, ModelError: an operating point cannot be looked up.
        """
        from slidescan.maps.regions import Rule

        threshold, low = (
            None if each is None else resolve_threshold(each, [map_path], self.model)
            for each in (self.threshold, self.low)
        )
        assert threshold is not None
        return Rule(threshold, low, self.min_area)


def open_map_to_export(path: Place, *, partial: bool) -> Heatmap:
    """Open a map; warn of one that is not finished, which only `partial` accepts.

    Raises MapError.
    """
    from slidescan.errors import MapError
    from slidescan.maps.finished import open_finished, scanned_share

    heatmap = open_finished(path, partial=True)
    if not heatmap.complete:
        share = f"{scanned_share(heatmap):.1%} of its cells are scanned"
        if not partial:
            raise MapError(
                f"{path}: the scan has not finished ({share}); run slidescan heatmap again, which "
                "resumes it, or take what there is with --partial"
            )
        warn(f"{path}: unfinished, {share}")
    return heatmap


def corner_of(heatmap: Heatmap, slide_path: Place | None, *, no_crop: bool) -> Corner:
    """The (x, y) of level 0 that is (0, 0) in the file.

    Raises:
        SlideError: the slide cannot be opened.
        MapError: it is that of another map.
    """
    from slidescan.exports.qupath import recorded_corner

    found = recorded_corner(heatmap)
    if slide_path:
        with open_slide_of(heatmap, slide_path) as slide:
            found = (slide.bounds_l0.x0, slide.bounds_l0.y0)
    if no_crop:
        return 0, 0
    if found is None:
        warn(
            f"{heatmap.path}: does not record which part of the slide QuPath shows; if the export "
            "is shifted there (MRXS), give the slide with --slide"
        )
    return found or (0, 0)
