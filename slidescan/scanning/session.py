"""Scan one slide into a map: joins model, slide, tissue, engine and store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial

from slidescan.engines import backend, engine_pool, ensemble, scan_modes
from slidescan.errors import SlidescanError
from slidescan.geometry import Grid
from slidescan.maps.gaps import find_gaps
from slidescan.maps.places import keeping
from slidescan.maps.record import find_record
from slidescan.maps.store import Heatmap
from slidescan.protocols import BATCH, Engine, Parallel, Reporter
from slidescan.scanning import damage_report, filling, pipeline, resumption
from slidescan.scanning.filling import Scan, Turns
from slidescan.scanning.manifest import Row, describe
from slidescan.scanning.options import Options
from slidescan.scanning.pace import Pace
from slidescan.scanning.provenance import now, provenance, versions
from slidescan.scanning.sampling import compare_with_training
from slidescan.scanning.selection import Selection, Selector
from slidescan.scanning.tiling import Tiling
from slidescan.slides.damage import Found
from slidescan.slides.plane import Plane
from slidescan.slides.slide import Slide
from slidescan.slides.staging import Stage, source_record
from slidescan.tools.hardware import cores, share_freed_memory
from slidescan.tools.once import Once
from slidescan.tools.settings_diff import JSON, strict
from slidescan.tools.urls import Place, Url


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


def summary(heatmap: Heatmap, megapixels: float = 0.0, seconds: float = 0.0) -> Summary:
    """Sum up a complete map."""
    return Summary(*heatmap.grid.shape, int(heatmap.scanned.sum()), megapixels, seconds)


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
        stride_px = scan_modes.choose_stride(self.ensemble, options.mode, options.stride)
        self.tiling = Tiling(stride_px, by_patch=options.mode == "patch")
        # Now: an error must not leave an empty map behind.
        self.ensemble.check(self.backend, None if self.tiling.by_patch else stride_px)
        how = self.ensemble, options.mode, stride_px
        # Not a method of this session: in a cycle with it, the engine and its buffers of more than
        # 100 MB stay until Python looks for cycles.
        self._engine = Once(partial(_make_engine, how, self.backend))
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

    def run(self, slide_path: Place, out: Place) -> Summary:
        """Scan a slide into the map `out`, or resume an earlier run.

        Raises `SlidescanError`; finished blocks stay.
        """
        started = time.perf_counter()
        with self.begin(slide_path, out) as scan:
            heatmap = scan.heatmap
            if heatmap.complete:
                self.reporter.say(f"{out}: complete already, nothing to do")
                return self.complete(scan)
            work = scan.missing()
            done = scan.blocks() - len(work)
            if done:
                self.reporter.say(f"{out}: resuming, {done} of {scan.blocks()} blocks are finished")
            if work:
                self.fill(scan, work)
            megapixels = round(scan.pixels(work) / 1e6, 3)
            return self.finish(scan, scan.plane.slide.damage.all(), megapixels, started)

    @contextmanager
    def begin(self, slide_path: Place, out: Place, *, lent: bool = False) -> Iterator[Scan]:
        """Open a slide and its map, which is made where there is none; nothing is scanned yet.

        `lent`: another process holds the lock of the map. Raises `SlidescanError`.
        """
        self.warnings.clear()
        keeping(out).check_target()  # before minutes of reading
        with self.open_slide(slide_path) as slide:
            for warning in slide.warnings:
                self._warn(slide_path, warning)
            plane = slide.plane(self.ensemble.mpp)
            with self._resume_or_create(slide_path, out, plane, lent) as heatmap:
                if heatmap.replaces:
                    self.reporter.say(f"{out}: stays as it is until the new map is complete")
                scan = Scan(plane, heatmap, self.tiling)
                if not heatmap.complete and resumption.changed(heatmap, slide.fingerprint):
                    self._accept_file(scan)
                yield scan

    @contextmanager
    def open_slide(self, place: Place) -> Iterator[Slide]:
        """Open a slide as the options say; one at an address is fetched. Raises SlidescanError."""
        options = self.options
        with (
            self.stage.local(place, self.reporter.bar) as path,
            Slide.open(path, options.mpp, skip_damaged=options.damaged == "skip") as slide,
        ):
            yield slide

    @property
    def stage(self) -> Stage:
        """The folder of fetched slides."""
        return Stage(self.options.slide_cache, self.options.slide_cache_gb)

    def _resume_or_create(self, slide_path: Place, out: Place, plane: Plane, lent: bool) -> Heatmap:
        """Find the cells to scan, and make or open the map; it holds a copy of the large mask."""
        path, grid = slide_path, self.grid(plane)
        selected = self.selector().select(plane, grid)
        looks = self._compare_with_training(plane, grid, selected)
        if not selected.mask.any():
            self._warn(
                path, "no tissue found, the map is empty; --no-tissue-mask scans all the same"
            )
        fingerprint = resumption.fingerprint_for(out, plane.slide.fingerprint)
        return Heatmap.resume_or_create(
            out,
            grid=grid,
            mpp=self.ensemble.mpp,
            mask=selected.mask,
            settings=self.settings(plane.slide, fingerprint),
            provenance={
                **provenance(plane, self.command), **looks, **source_record(slide_path),
                "tissue_mm2": selected.tissue_mm2,
            },
            overwrite=self.options.overwrite,
            lent=lent,
        )  # fmt: skip

    def is_finished(self, slide_path: Place, out: Place) -> bool:
        """Whether `out` is a whole map of this slide, by these settings and versions.

        Looks neither for tissue nor at the pixels, so it is quick. A slide at an address is not
        fetched: its size and tag are compared with those that the map records. False where one
        cannot be read; `run` says why.
        """
        try:
            record = find_record(out)
            if record is None or record.get("complete") is not True:
                return False
            heatmap = Heatmap.open(out)
            if isinstance(slide_path, Url):
                made = self._made_from(slide_path, heatmap)
            else:
                with Slide.open(slide_path, self.options.mpp) as slide:
                    grid = self.grid(slide.plane(self.ensemble.mpp))
                    fingerprint = resumption.fingerprint_for(out, slide.fingerprint)
                    wanted = strict(self.settings(slide, fingerprint))
                made = heatmap.settings == wanted and heatmap.grid == grid
            return made and heatmap.provenance.get("versions") == versions() and heatmap.whole()
        except SlidescanError:
            return False

    def _made_from(self, url: Url, heatmap: Heatmap) -> bool:
        """Whether a map was made from the file that is at an address now, by these settings."""
        wanted = strict(self._settings_of_any())
        made = {key: heatmap.settings.get(key) for key in wanted}
        mpp, grid = self.options.mpp, heatmap.grid
        return (
            made == wanted
            and set(heatmap.settings) == {"slide", *wanted}
            and (mpp is None or heatmap.settings["slide"]["mpp"] == [mpp, mpp])
            and (grid.stride, grid.field_px) == (self.tiling.stride_px, self.ensemble.field_px)
            and {"source": heatmap.provenance.get("source")} == source_record(url)
        )

    def describe(self, out: Place) -> Row:
        """What the manifest says of a finished map. Raises MapError."""
        return describe(out)

    def pace(self) -> Pace:
        """When a batch begins its slides."""
        return Pace()

    def grid(self, plane: Plane) -> Grid:
        """The cells of a slide's map."""
        return Grid(plane.shape_px, self.tiling.stride_px, self.ensemble.field_px)

    def selector(self) -> Selector:
        """What selects the cells of a slide."""
        return Selector(self.options.tissue_mask, self.backend.threads, self.reporter.bar)

    def settings(self, slide: Slide, fingerprint: str) -> dict[str, JSON]:
        """Everything that determines a value; a map made with other settings is not resumed."""
        about: JSON = {
            "fingerprint": fingerprint,
            "mpp": slide.mpp,
            "extent_l0": slide.extent_l0,
        }
        return {"slide": about, **self._settings_of_any()}

    def _settings_of_any(self) -> dict[str, JSON]:
        """The settings that do not depend on the slide."""
        options = self.options
        # Maps that were made before there was a choice of modes do not record one.
        patch: dict[str, JSON] = {"mode": "patch", "batch": BATCH}
        return {
            **self.ensemble.record(),
            **self.backend.record(),
            "tile_px": pipeline.TILE_PX,
            "tissue_mask": options.tissue_mask,
            **(patch if self.tiling.by_patch else {}),
            **({"damaged": options.damaged} if options.damaged != "stop" else {}),
        }

    def complete(self, scan: Scan) -> Summary:
        """Warn of the gaps of a map that is complete already, and sum it up."""
        self._find_gaps(scan)
        return replace(summary(scan.heatmap), complete_before=True)

    def fill(self, scan: Scan, work: Sequence[pipeline.Work]) -> None:
        """Scan blocks into the map. Raises `SlidescanError`; blocks that were finished stay."""
        threads, bar = self.backend.threads, self.reporter.bar
        filling.fill(scan, work, self.engine, threads, bar, self._turns)

    def finish(
        self, scan: Scan, damaged: Sequence[Found], megapixels: float, started: float
    ) -> Summary:
        """Write the coarser levels and the record of a map whose blocks are all there.

        Args:
            scan: the slide and the map.
            damaged: the blocks of the slide that are, as far as the scan has seen.
            megapixels: scanned in this run.
            started: when the run was, by `time.perf_counter`.

        Raises:
            SlidescanError: blocks are missing, or the disk does not take the levels.
        """
        found = self._find_gaps(scan) | self._tell_damage(scan.plane.slide, damaged)
        seconds = round(time.perf_counter() - started, 3)
        last_run: JSON = {"seconds": seconds, "megapixels": megapixels}
        scan.heatmap.finish(
            {"last_run": last_run, "warnings": self.warnings, "finished": now(), **found}
        )
        return summary(scan.heatmap, megapixels, seconds)

    def _warn(self, path: Place, text: str) -> None:
        """Warn of a slide, and keep the text for the map's record."""
        self.warnings.append(text)
        self.reporter.warn(f"{path}: {text}")

    def _compare_with_training(
        self, plane: Plane, grid: Grid, selected: Selection
    ) -> dict[str, JSON]:
        """Warn where the slide is unlike the training patches; returns what the map records."""
        looks = compare_with_training(
            plane, grid, selected, self.ensemble.references, self.backend.threads
        )
        if looks.warning:
            self._warn(plane.slide.path, looks.warning)
        return looks.record

    def _accept_file(self, scan: Scan) -> None:
        """Go on with a map that was begun with a damaged copy, if its finished cells are right."""
        cells = resumption.check_finished(
            scan.heatmap,
            scan.plane,
            lambda: self.ensemble.engine(self.backend),
            backend.TOLERANCE[self.backend.precision],
        )
        scan.heatmap.change_fingerprint(scan.plane.slide.fingerprint)
        self.reporter.say(
            f"{scan.heatmap.path}: begun with a file that has changed since; {cells} finished "
            "cells that were compared are those of this file"
        )

    def _tell_damage(self, slide: Slide, found: Sequence[Found]) -> dict[str, JSON]:
        """Warn of damaged blocks that were read; returns what the map records of them."""
        for line in damage_report.warnings(found):
            self._warn(slide.path, line)
        return damage_report.record(found)

    def _find_gaps(self, scan: Scan) -> dict[str, JSON]:
        """Warn of cells that the slide lacks pixels of; returns what the map records of them."""
        heatmap, slide = scan.heatmap, scan.plane.slide
        pitch_um = heatmap.mpp * heatmap.grid.stride
        pitch_l0 = pitch_um / slide.mpp[0], pitch_um / slide.mpp[1]
        found = find_gaps(heatmap.gaps, heatmap.mask, pitch_l0)
        if found is None:
            return {}
        self._warn(slide.path, found.warning())
        return {"gaps": found.record()}


def _make_engine(
    how: tuple[ensemble.Ensemble, scan_modes.Mode, int], chosen: backend.Backend
) -> Engine:
    lanes = 1 if scan_modes.is_finer(*how) else engine_pool.CPU_LANES
    made = engine_pool.make_engine(partial(scan_modes.make, *how), chosen, lanes)
    # A pool of one lets slides at the same time take turns.
    return made if isinstance(made, Parallel) else engine_pool.EnginePool([made])
