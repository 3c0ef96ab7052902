"""`slidescan heatmap`: slides in, maps of tumour probabilities out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidescan.commands.batch import BatchPrinter, Printer, plan_batch
from slidescan.commands.beside import viewer_of
from slidescan.commands.checks import check_map_name, check_models, check_slide
from slidescan.commands.options import (
    PATH,
    PLACE,
    Real,
    engine_options,
    ensemble_options,
    mpp_option,
    precision_option,
)
from slidescan.commands.terminal import command_line
from slidescan.errors import ConfigError, SlidescanError
from slidescan.tools.urls import Place

if TYPE_CHECKING:
    from slidescan.scanning.cohort import Scanner
    from slidescan.scanning.options import Options


class Shard(click.ParamType[tuple[int, int]]):
    """A part of the slides, i of n, counted from 1."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return (i, n)."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)/(\d+)", value)
        part, parts = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= part <= parts:
            self.fail(f"{value!r} is no part: 1/4 to 4/4 are the four parts of four", param, ctx)
        return part, parts


@click.command()
@click.argument("slides", metavar="SLIDE...", type=PLACE, nargs=-1, required=True)
@ensemble_options
@click.option(
    "--mode",
    type=click.Choice(["dense", "patch"]),
    default="dense",
    show_default=True,
    help="dense: one fully convolutional pass, in which neighbouring cells share computation. "
    "patch: each cell from its own 96 x 96 px patch. This takes any model and any even stride, "
    "but about seventy times as long.",
)
@click.option(
    "--stride",
    type=int,
    help="Scan-plane pixels between neighbouring cells. dense: 2, 4, 8, 16, ... with a model of "
    "stride 8; patch: any even number from 2 to 96. [default: the model's own]",
)
@mpp_option
@engine_options
@precision_option
@click.option(
    "--tissue-mask/--no-tissue-mask",
    default=True,
    show_default=True,
    help="Scan tissue only, or glass as well.",
)
@click.option(
    "--damaged",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do where the slide cannot be read. stop: end with an error that says where; "
    "finished blocks stay. skip: leave the cells that see the damage NaN, and list it in the map.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace a finished map, or one made with other settings."
)
@click.option(
    "--view",
    is_flag=True,
    help="Show the slides and their maps in the browser while they are scanned, and afterwards "
    "until Ctrl-C; see slidescan view.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="Processes to scan with, which share the processors; for many slides. [default: 1, with "
    "--scheduler local one for each processor]",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS|FILE|local",
    help="Scan by the workers of a Dask cluster: the address of its scheduler, the JSON file that "
    "the scheduler wrote, or local for processes of this machine. Slides and maps must be at the "
    "same paths everywhere.",
)
@click.option(
    "--shard",
    type=Shard(),
    default=(1, 1),
    help="Scan a part of the slides: 1/16 to 16/16 are the parts of sixteen jobs.",
)
@click.option(
    "--retry",
    type=click.Choice(["failed", "missing", "waiting"]),
    help="Scan only the slides that are in this state in manifest.csv. [default: all that are not "
    "done]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Write nothing; print the tissue of each slide and estimates of time and space.",
)
@click.option(
    "--slide-cache",
    type=PATH,
    help="Folder of slides that were fetched from addresses. [default: $SLIDESCAN_SLIDE_CACHE, or "
    "in the user's cache folder]",
)
@click.option(
    "--slide-cache-gb",
    type=Real(0, 1e9, min_open=True),
    help="Its limit: what was not used for longest leaves. [default: $SLIDESCAN_SLIDE_CACHE_GB, or "
    "100]",
)
@click.option("--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: an object a line and slide, with slide, map, state, megapixels, seconds, reason, "
    "warnings.",
)
@click.option(
    "--out",
    type=PLACE,
    required=True,
    help="The map of one slide, NAME.zarr. Any other name is a folder, which gets a map for each "
    "slide and manifest.csv. Either may be in an object store, e.g. s3://bucket/maps.",
)
def command(
    slides: tuple[Place, ...], out: Place, models: tuple[str, ...], view: bool, **options: Any
) -> None:
    """Scan slides and write their tumour probabilities to zarr maps (OME-NGFF 0.5).

    The slide is resampled to the model's resolution, the scan plane. A cell is one value of the
    map: the probability that the 32 x 32 px around its centre hold tumour. Cells without tissue
    are NaN. Several --model are averaged; --tta d4 averages eight flips and rotations. A scan that
    was stopped is resumed by the same command.

    SLIDE is a file, an address such as s3://bucket/slide.svs, a folder, a pattern such as
    '**/*.svs', or a CSV with a column slide and, if wanted, name and mpp. Several processes may
    scan into one folder.

    \b
    Examples:
      slidescan heatmap slide.tif --out map.zarr
      slidescan heatmap slide.tif --model fast --stride 16 --out map.zarr
      slidescan heatmap slides/ --precision auto --out maps
      slidescan heatmap slides/*.tif --shard 1/2 --out maps
      slidescan heatmap slides/ --dry-run --out maps
      slidescan heatmap slides/ --scheduler local --out maps
    """
    single = out.suffix == ".zarr"
    check_map_name(out)
    if single:
        if len(slides) > 1:
            raise click.UsageError(
                f"--out {out} is one map; name a folder for {len(slides)} slides"
            )
        check_slide(slides[0])  # of many, each is attempted
    check_models(models)
    batch = {name: options.pop(name) for name in ("jobs", "shard", "retry")}
    dry_run, scheduler = options.pop("dry_run"), options.pop("scheduler")
    _check_scheduler(scheduler, batch["jobs"], dry_run, (*slides, out))

    from slidescan.scanning.options import Options

    printer = Printer(options.pop("log_format"), options.pop("quiet"))
    options["device"] = options["device"] or "auto"
    chosen = Options(models=models, **options)
    try:
        with _viewer(slides, out, chosen) if view else nullcontext():
            if dry_run:
                _plan(slides, out, chosen, printer, batch["shard"], batch["retry"])
            elif single:
                with _scanner(scheduler, batch["jobs"], chosen, printer, out.parent) as scanner:
                    _scan(slides[0], out, scanner, printer)
            else:
                _scan_all(slides, out, chosen, printer, scheduler, **batch)
    except KeyboardInterrupt as error:
        raise SlidescanError(
            "interrupted; finished blocks are kept, and the same command resumes the scan"
        ) from error


@contextmanager
def _viewer(slides: tuple[Place, ...], out: Place, options: Options) -> Iterator[None]:
    """Show slides and maps of this machine while they are scanned. Raises ConfigError."""
    paths = [place for place in (*slides, out) if isinstance(place, Path)]
    if len(paths) <= len(slides):
        raise ConfigError(
            "--view shows slides and maps of this machine while they are scanned; leave it out for "
            "addresses and use slidescan view afterwards"
        )
    *files, folder = paths
    with viewer_of(_viewed(files), folder, _viewing(options)):
        yield


def _viewed(slides: Sequence[Path]) -> tuple[Path, ...]:
    """What the viewer is started with: it knows files and folders, but no patterns and lists."""
    if all(path.is_dir() or (path.is_file() and path.suffix.lower() != ".csv") for path in slides):
        return tuple(slides)
    from slidescan.scanning.listing import read_arguments

    found = (entry.slide for entry in read_arguments(slides))
    return tuple(slide for slide in found if isinstance(slide, Path))


def _viewing(options: Options) -> list[str]:
    """The options of a scan that the viewer needs as well."""
    mpp = ["--mpp", str(options.mpp)] if options.mpp else []
    return [*mpp, *(word for source in options.models for word in ("--model", source))]


def _check_scheduler(
    scheduler: str | None, jobs: int | None, dry_run: bool, places: Sequence[Place]
) -> None:
    """Refuse what means nothing beside a scheduler."""
    if scheduler and dry_run:
        raise click.UsageError("--dry-run estimates for this machine; leave out --scheduler")
    if scheduler not in (None, "local") and jobs:
        raise click.UsageError(
            "--jobs goes with --scheduler local; elsewhere the workers are those of the cluster"
        )
    if scheduler and not all(isinstance(place, Path) for place in places):
        raise click.UsageError(
            "--scheduler takes slides and maps in folders that all machines see, and no addresses"
        )


@contextmanager
def _scanner(
    scheduler: str | None, jobs: int | None, options: Options, printer: Printer, folder: Place
) -> Iterator[Scanner]:
    """What scans: this process, or a cluster whose workers see the `folder` of the maps."""
    if scheduler:
        assert isinstance(folder, Path)
        from slidescan.scanning.cluster.scanner import cluster_scanner

        with cluster_scanner(
            scheduler, jobs or 0, options, printer, command_line(), folder
        ) as scanner:
            yield scanner
    else:
        from slidescan.scanning.session import Session

        yield Session(options, printer, command_line())


def _scan(slide: Place, out: Place, scanner: Scanner, printer: Printer) -> None:
    """Scan one slide into a map."""
    try:
        summary = scanner.run(slide, out)
    except SlidescanError as error:
        if printer.json:
            printer.object(slide, out, "failed", reason=str(error), warnings=scanner.warnings)
        raise
    printer.scanned(slide, out, summary, scanner.warnings)


def _scan_all(
    slides: tuple[Place, ...],
    folder: Place,
    options: Options,
    printer: Printer,
    scheduler: str | None,
    jobs: int | None,
    shard: tuple[int, int],
    retry: str | None,
) -> None:
    """Scan slides into a folder of maps."""
    from slidescan.scanning.enrolment import enrol, prepare_folder, selected
    from slidescan.scanning.jobs import Batch, run_batch
    from slidescan.scanning.listing import read_arguments
    from slidescan.scanning.provenance import now

    since, entries = now(), read_arguments(slides)
    if scheduler:
        prepare_folder(folder)  # workers look for it
    # What is wrong with the scanner ends the command.
    with _scanner(scheduler, jobs, options, printer, folder) as scanner:
        prepare_folder(folder)
        tasks = selected(enrol(entries, folder), shard, retry)
        with BatchPrinter(tasks, folder, printer) as show:
            processes = 1 if scheduler else jobs or 1
            busy = run_batch(Batch(folder, tasks, since), scanner, processes, show)
    show.finish(busy)


def _plan(
    slides: tuple[Place, ...],
    out: Place,
    options: Options,
    printer: Printer,
    shard: tuple[int, int],
    retry: str | None,
) -> None:
    """Print what a scan would do."""
    from slidescan.scanning.enrolment import Task, enrol, selected
    from slidescan.scanning.estimate import Estimator
    from slidescan.scanning.listing import Entry, read_arguments
    from slidescan.scanning.session import Session

    if out.suffix == ".zarr":
        slide = slides[0].absolute() if isinstance(slides[0], Path) else slides[0]
        tasks = [Task(Entry(slide), out.name)]
        folder: Place = out.parent
    else:
        folder = out
        tasks = selected(enrol(read_arguments(slides), folder, write=False), shard, retry)
    estimator = Estimator(Session(options, printer, command_line()), folder)
    plan_batch(tasks, folder, estimator, printer)
