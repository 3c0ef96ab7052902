"""Scan one slide into a map: joins model, slide, tissue, engine and store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slidescan.engines import backend, engine_pool, ensemble, patchwise, scan_modes
from slidescan.engines.averaging import Tta
from slidescan.errors import SlideError, SlidescanError
from slidescan.geometry import Box, Grid
from slidescan.maps.creation import check_target
from slidescan.maps.gaps import find_gaps
from slidescan.maps.record import find_record
from slidescan.maps.store import Heatmap
from slidescan.models import familiarity, model
from slidescan.protocols import BATCH, Engine, Parallel, Reporter
from slidescan.scanning import damage_report, pipeline, resumption
from slidescan.scanning.sampling import sample
from slidescan.slides import tissue
from slidescan.slides.overview import read_whole
from slidescan.slides.plane import Plane
from slidescan.slides.slide import Slide
from slidescan.tools.hardware import cores, share_freed_memory
from slidescan.tools.once import Once
from slidescan.tools.settings_diff import JSON, encodable, strict

WITH_VALUES = (
    "slidescan", "torch", "openvino", "numpy", "zarr", "openslide-python", "openslide-bin"
)  # fmt: skip
"""Packages whose versions a map records."""


Gaps: TypeAlias = list[tuple[Box, NDArray[np.bool_]]]
"""Parts of a plane, and which of their pixels are missing."""

Damaged: TypeAlias = Literal["stop", "skip"]


@cache
def versions() -> dict[str, JSON]:
    """The versions of `WITH_VALUES`, by package."""
    return {name: version(name) for name in WITH_VALUES}


def now() -> str:
    """The time in UTC; as text it sorts like the time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Options:
    """How to scan. The map records everything that determines its values."""

    models: tuple[str, ...] = (model.DEFAULT,)
    """several are averaged"""
    tta: Tta | None = None
    mode: scan_modes.Mode = "dense"
    stride: int | None = None
    """scan-plane px between cells; the models' own where None"""
    mpp: float | None = None
    """um/px of the slide's level 0, where it records none or a wrong one"""
    engine: backend.Name | None = None
    device: str = backend.AUTO
    precision: backend.Wanted = "fp32"
    threads: int | None = None
    tissue_mask: bool = True
    overwrite: bool = False
    damaged: Damaged = "stop"
    """at a block that cannot be read: end the scan, or leave out the cells that see it"""
    cache: bool = True
    """keep compiled graphs in the user's cache folder"""


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of scanning a slide."""

    rows: int
    columns: int
    scanned: int
    """cells with a value"""
    megapixels: float
    """scan-plane pixels scanned in this run"""
    seconds: float
    complete_before: bool = False
    """nothing was left to do"""


Turns: TypeAlias = Callable[[Iterable[pipeline.Work]], Iterable[pipeline.Work]]
"""Passes a slide's work on when it is the slide's turn."""


class Session:
    """Scans slides with one model or ensemble and one engine, which is built when first needed.

    `command` is what the maps record of how they were made. One slide at a time; `beside` makes
    the sessions of further slides.
    """

    def __init__(self, options: Options, reporter: Reporter, command: str = "") -> None:
        share_freed_memory()
        self.options = options
        self.reporter = reporter
        self.command = command
        self.warnings: list[str] = []
        """of the last slide"""
        self.backend = backend.choose(
            options.engine, options.device, options.precision, options.threads or cores()
        )
        self.ensemble = ensemble.Ensemble.load(options.models, options.tta, options.cache)
        self.stride_px = scan_modes.choose_stride(self.ensemble, options.mode, options.stride)
        # Now: an error must not leave an empty map behind.
        self.ensemble.check(self.backend, None if self._by_patch else self.stride_px)
        self._engine = Once(self._make_engine)
        self._turns: Turns = iter

    def beside(self, reporter: Reporter, turns: Turns, mpp: float | None) -> Session:
        """A session for another slide at the same time, with the same models and engine.

        `mpp` is um/px of the slide's level 0, if it differs from that of the options.
        """
        other = copy(self)
        other.reporter, other._turns, other.warnings = reporter, turns, []
        if mpp is not None:
            other.options = replace(self.options, mpp=mpp)
        return other

    @property
    def engine(self) -> Engine:
        """Built once for all slides, because compiling takes seconds."""
        return self._engine()

    def _make_engine(self) -> Engine:
        how = self.ensemble, self.options.mode, self.stride_px
        lanes = 1 if scan_modes.is_finer(*how) else engine_pool.CPU_LANES
        made = engine_pool.make_engine(partial(scan_modes.make, *how), self.backend, lanes)
        # A pool of one lets slides at the same time take turns.
        return made if isinstance(made, Parallel) else engine_pool.EnginePool([made])

    @property
    def _by_patch(self) -> bool:
        return self.options.mode == "patch"

    def run(self, slide_path: Path, out: Path) -> Summary:
        """Scan a slide into the map `out`, or resume an earlier run.

        Raises `SlidescanError`; finished blocks stay.
        """
        started, ensemble, options = time.perf_counter(), self.ensemble, self.options
        self.warnings.clear()
        check_target(out)  # before minutes of reading
        skip = options.damaged == "skip"
        with Slide.open(slide_path, options.mpp, skip_damaged=skip) as slide:
            for warning in slide.warnings:
                self._warn(slide_path, warning)
            plane = slide.plane(ensemble.mpp)
            grid = self.grid(plane)
            mask, he_like, tissue_mm2 = self.select(plane, grid)
            looks = self._compare_with_training(plane, grid, mask, he_like)
            if not mask.any():
                self._warn(
                    slide_path,
                    "no tissue found, the map is empty; --no-tissue-mask scans all the same",
                )
            with Heatmap.resume_or_create(
                out,
                grid=grid,
                mpp=ensemble.mpp,
                mask=mask,
                settings=self.settings(slide, resumption.fingerprint_for(out, slide.fingerprint)),
                provenance=self._provenance(plane) | looks | {"tissue_mm2": tissue_mm2},
                overwrite=options.overwrite,
            ) as heatmap:
                del mask  # the map holds a copy, and it is large
                if heatmap.complete:
                    self.reporter.say(f"{out}: complete already, nothing to do")
                    self._find_gaps(heatmap, slide)
                    scanned = int(heatmap.scanned.sum())
                    return Summary(*grid.shape, scanned, 0.0, 0.0, complete_before=True)
                if heatmap.replaces:
                    self.reporter.say(f"{out}: stays as it is until the new map is complete")
                if resumption.changed(heatmap, slide.fingerprint):
                    self._accept_file(heatmap, plane)
                megapixels = self.fill(heatmap, plane)
                found = self._find_gaps(heatmap, slide) | self._tell_damage(slide)
                seconds = round(time.perf_counter() - started, 3)
                last_run: JSON = {"seconds": seconds, "megapixels": megapixels}
                heatmap.finish(
                    {"last_run": last_run, "warnings": self.warnings, "finished": now(), **found}
                )
                scanned = int(heatmap.scanned.sum())
        return Summary(*grid.shape, scanned, megapixels, seconds)

    def is_finished(self, slide_path: Path, out: Path) -> bool:
        """Whether `out` is a whole map of this slide, by these settings and versions.

        Looks neither for tissue nor at the pixels, so it is quick. False where either cannot be
        read; `run` says why.
        """
        try:
            record = find_record(out)
            if record is None or record.get("complete") is not True:
                return False
            heatmap = Heatmap.open(out)
            with Slide.open(slide_path, self.options.mpp) as slide:
                grid = self.grid(slide.plane(self.ensemble.mpp))
                fingerprint = resumption.fingerprint_for(out, slide.fingerprint)
                wanted = strict(self.settings(slide, fingerprint))
            made = heatmap.settings == wanted and heatmap.grid == grid
            return made and heatmap.provenance.get("versions") == versions() and heatmap.whole()
        except SlidescanError:
            return False

    def grid(self, plane: Plane) -> Grid:
        """The cells of a slide's map."""
        return Grid(plane.shape_px, self.stride_px, self.ensemble.field_px)

    def _warn(self, path: Path, text: str) -> None:
        """Warn of a slide, and keep the text for the map's record."""
        self.warnings.append(text)
        self.reporter.warn(f"{path}: {text}")

    def settings(self, slide: Slide, fingerprint: str) -> dict[str, JSON]:
        """Everything that determines a value; a map made with other settings is not resumed."""
        options = self.options
        # Maps that were made before there was a choice of modes do not record one.
        patch: dict[str, JSON] = {"mode": "patch", "batch": BATCH}
        return {
            "slide": {
                "fingerprint": fingerprint,
                "mpp": slide.mpp,
                "extent_l0": slide.extent_l0,
            },
            **self.ensemble.record(),
            **self.backend.record(),
            "tile_px": pipeline.TILE_PX,
            "tissue_mask": options.tissue_mask,
            **(patch if self._by_patch else {}),
            **({"damaged": options.damaged} if options.damaged != "stop" else {}),
        }

    def select(
        self, plane: Plane, grid: Grid
    ) -> tuple[NDArray[np.bool_], float | None, float | None]:
        """Select the cells to scan: inside the slide's bounds, those that see tissue, or all.

        Also returns `tissue.he_like` of the overview, None where tissue was not looked for or
        there is none; and the area of the cells that hold tissue, in mm2, None where it was not
        looked for.
        """
        stride, bounds = grid.stride, plane.bounds
        inside = Box(
            bounds.y0 // stride,
            bounds.x0 // stride,
            -(-bounds.y1 // stride),
            -(-bounds.x1 // stride),
        ).clip(grid.cells)
        mask = np.zeros(grid.shape, bool)
        if not self.options.tissue_mask:
            mask[inside.slices] = True
            return mask, None, None
        # Every cell whose field of view touches tissue.
        reach = -(-(grid.field_px - stride) // (2 * stride))
        held, he_like = self._find_tissue(plane, stride, inside)
        mask[inside.slices] = tissue.grow(held, reach)
        area_mm2 = int(np.count_nonzero(held)) * (plane.mpp * stride / 1000) ** 2
        return mask, he_like, round(area_mm2, 4)

    def _find_tissue(
        self, plane: Plane, stride: int, cells: Box
    ) -> tuple[NDArray[np.bool_], float | None]:
        """Find the `cells` that hold tissue on an overview of the slide, and its `he_like`.

        A cell is one pixel of the overview, or several if cells are large: the smallest fragment
        that must be found covers at least one whole pixel, wherever it lies. Where pixels of the
        overview are missing there may be tissue.
        """
        side = math.ceil(plane.mpp * stride / (tissue.FRAGMENT_UM / 2))
        box = Box(cells.y0 * side, cells.x0 * side, cells.y1 * side, cells.x1 * side)
        overview_mpp = plane.mpp * stride / side
        rgb, gaps = self._read_overview(plane.slide, overview_mpp, box)
        found = tissue.tissue_mask(rgb, um_per_px=overview_mpp)
        he_like = tissue.he_like(rgb, found)
        for part, missing in gaps:
            found[part.shift(-box.y0, -box.x0).slices] |= missing
        rows, columns = cells.shape
        pixels = found.reshape(rows, side, columns, side)
        held: NDArray[np.bool_] = np.logical_or.reduce(pixels, axis=(1, 3))
        return held, he_like

    def _read_overview(self, slide: Slide, mpp: float, box: Box) -> tuple[NDArray[np.uint8], Gaps]:
        """Read an overview and its gaps, from a finer level where the first cannot be read.

        Raises SlideError where level 0 cannot be read either.
        """
        overview = slide.plane(mpp)
        while True:
            gaps: Gaps = []
            keep = partial(_keep_gap, gaps)
            threads, bar = self.backend.threads, self.reporter.bar
            try:
                return read_whole(overview, box, "finding tissue", threads, bar, keep), gaps
            except SlideError as error:
                if not overview.level:
                    raise SlideError(
                        f"{error}; --damaged skip leaves out the cells that see the damage, "
                        "--no-tissue-mask scans without looking for tissue"
                    ) from error
                reason = str(error).removeprefix(f"{slide.path}: ")
                self._warn(slide.path, f"{reason}; tissue is looked for on a finer level")
                overview = slide.plane(mpp, finer_than=overview.level)

    def _compare_with_training(
        self, plane: Plane, grid: Grid, mask: NDArray[np.bool_], he_like: float | None
    ) -> dict[str, JSON]:
        """Warn where the slide is unlike the training patches; returns what the map records."""
        path, references = plane.slide.path, self.ensemble.references
        found = None
        if any(references) and mask.any():
            patches = sample(plane, grid, mask, familiarity.ENOUGH, self.backend.threads)
            found = familiarity.judge(patches, references)
        if found and found.unlike:
            self._warn(path, found.warning())
        elif found is None and he_like is not None and he_like < tissue.HE_LIKE:
            # Models of earlier versions have no reference, and small slides too few patches.
            self._warn(
                path,
                "unlike a slide stained with H&E on white glass: green is the lowest channel in "
                f"{he_like:.0%} of the tissue, where {tissue.HE_LIKE:.0%} or more is expected; the "
                "models were trained on H&E alone",
            )
        return {"he_like": he_like, "unlike": found.record() if found else None}

    def _accept_file(self, heatmap: Heatmap, plane: Plane) -> None:
        """Go on with a map that was begun with a damaged copy, if its finished cells are right."""
        cells = resumption.check_finished(
            heatmap,
            plane,
            lambda: self.ensemble.engine(self.backend),
            backend.TOLERANCE[self.backend.precision],
        )
        heatmap.change_fingerprint(plane.slide.fingerprint)
        self.reporter.say(
            f"{heatmap.path}: begun with a file that has changed since; {cells} finished cells "
            "that were compared are those of this file"
        )

    def _tell_damage(self, slide: Slide) -> dict[str, JSON]:
        """Warn of damaged blocks that were read; returns what the map records of them."""
        found = slide.damage.all()
        for line in damage_report.warnings(found):
            self._warn(slide.path, line)
        return damage_report.record(found)

    def _find_gaps(self, heatmap: Heatmap, slide: Slide) -> dict[str, JSON]:
        """Warn of cells that the slide lacks pixels of; returns what the map records of them."""
        pitch_um = heatmap.mpp * heatmap.grid.stride
        pitch_l0 = pitch_um / slide.mpp[0], pitch_um / slide.mpp[1]
        found = find_gaps(heatmap.gaps, heatmap.mask, pitch_l0)
        if found is None:
            return {}
        self._warn(slide.path, found.warning())
        return {"gaps": found.record()}

    def fill(self, heatmap: Heatmap, plane: Plane) -> float:
        """Scan the missing blocks of a map; returns their scan-plane megapixels."""
        grid, mask = heatmap.grid, heatmap.mask
        cell_px = grid.stride**2
        work = list(self.plan_work(heatmap.missing(), mask))
        total = sum(bool(mask[block.slices].any()) for block in heatmap.blocks())
        if len(work) < total:
            done = total - len(work)
            self.reporter.say(f"{heatmap.path}: resuming, {done} of {total} blocks are finished")
        if not work:
            return 0.0
        cells = sum(self.scored(tile, mask) for item in work for tile in item.tiles)
        engine = self.engine
        with (
            self.reporter.bar("scanning", cells * cell_px, "px") as progress,
            closing(self._in_turn(work)) as fed,
        ):
            try:
                pipeline.scan(
                    fed,
                    grid,
                    mask,
                    plane,
                    engine,
                    heatmap,
                    threads=self.backend.threads,
                    on_tile=lambda tile: progress.update(self.scored(tile, mask) * cell_px),
                )
            except SlideError as error:
                left = sum(1 for _ in heatmap.missing())
                raise SlideError(
                    f"{error}; {total - left} of {total} blocks are in {heatmap.path}; the "
                    "same command with an undamaged copy resumes the scan, --damaged skip "
                    "--overwrite leaves out the cells that see the damage"
                ) from error
        return round(cells * cell_px / 1e6, 3)

    def plan_work(self, blocks: Iterable[Box], mask: NDArray[np.bool_]) -> Iterator[pipeline.Work]:
        """The tiles of blocks that hold a selected cell."""
        tile_cells = pipeline.TILE_PX // self.stride_px
        if self._by_patch:
            tile_cells = min(tile_cells, patchwise.TILE_CELLS)
        return pipeline.plan_work(blocks, mask, tile_cells)

    def _in_turn(self, work: list[pipeline.Work]) -> Generator[pipeline.Work, None, None]:
        yield from self._turns(work)

    def scored(self, tile: Box, mask: NDArray[np.bool_]) -> int:
        """How many cells the engine computes: all of a tile, or in mode patch the selected ones."""
        return int(np.count_nonzero(mask[tile.slices])) if self._by_patch else tile.area

    def _provenance(self, plane: Plane) -> dict[str, JSON]:
        """What is not compared when a map is resumed: slide, command, time and versions."""
        bounds = plane.slide.bounds_l0
        return {
            "slide": encodable(plane.slide.path.name),
            "bounds_l0": [bounds.x0, bounds.y0, *bounds.shape[::-1]],
            "level": plane.level,
            "command": encodable(self.command),
            "started": now(),
            "versions": versions(),
        }


def _keep_gap(gaps: Gaps, part: Box, missing: NDArray[np.bool_]) -> None:
    gaps.append((part, missing))
