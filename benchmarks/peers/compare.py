"""slidescan beside WSInfer and TIAToolbox: same slide, weights, resolution, threads and batches.

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0                   # in its CPU build, as constraints.txt
    PEERS/bin/pip install --no-deps -r benchmarks/peers/requirements.txt
    python -m benchmarks.peers.compare --peers-python PEERS/bin/python [--slide SLIDE] [--out peers]

The two require different versions of zarr and tifffile, and TIAToolbox 2.1.3 refuses torch 2.13, so
no resolver installs them together: hence --no-deps, with every version named. Names that they
import and do not use here are added before the import (`inside.mend_imports`).

The model is given to them as TorchScript, optimised for inference (WSInfer's `--speedup`), which is
their faster way. Each system scans the whole slide, glass included, at strides of 96 px, the
peers' default, and of 32 px, which has nine times as many windows; slidescan also at its own 8 px,
144 times as many. Windows at the edge differ: slidescan centres one on every cell, WSInfer needs
centres inside the slide, TIAToolbox corners. Therefore windows a second are given as well.

`start` is the process and its imports. `work` is the time that `slidescan heatmap` records,
compiling its network included, or that of the peer's call (see inside.py); all write their
results to a file. Peers run in fp32. Each system reads with as many threads or workers as it
computes with.

The results are checked: of each row up to 400 windows, drawn at random from those wholly inside the
slide, are scored again by slidescan's fp32 patch classifier. Once from the same pixels that the
system read (`same pixels`: a difference is one of weights or arithmetic), and once from slidescan's
pixels of that place, at the nearest pixel of the scan plane (`own pixels`). The second difference
comes from resampling: WSInfer reduces level 0 by a triangle filter; slidescan and TIAToolbox read a
coarser level, and differ only where no level has the model's resolution.

The peers download registries and weights unless they are given a model. An audit hook stops the run
if one looks up an address or connects to it.

--only selects rows by a part of their name; the others are kept from an earlier run into the same
folder with the same slide and settings. Other work on the machine slows the peers more than
slidescan: measure on an idle one. Needs the extra `dev`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from benchmarks.peers.inside import sample
from benchmarks.support.pyramids import MPP
from benchmarks.support.reports import about, keep, markdown
from slidescan.engines.backend import Backend
from slidescan.engines.build import make_engine
from slidescan.geometry import Box
from slidescan.maps.store import Heatmap
from slidescan.models.model import Model, load
from slidescan.networks.network import Network
from slidescan.pictures import style
from slidescan.slides.plane import Plane
from slidescan.slides.slide import Slide
from slidescan.tools.hardware import cores

INSIDE = Path(__file__).with_name("inside.py")
VERSIONS = ("slidescan", "torch", "openvino", "openslide-python", "openslide-bin")


class Case(NamedTuple):
    """A row of the table: system, stride, precision and mode."""

    system: str
    stride: int
    precision: str = "fp32"
    mode: str = "patch"

    @property
    def name(self) -> str:
        own = self.system == "slidescan"
        return f"{self.system} {self.mode if own else ''} {self.precision}".replace("  ", " ")


CASES = (
    *(Case("slidescan", s, p, "dense") for s in (8, 32) for p in ("fp32", "bf16", "int8")),
    *(Case(system, s) for system in ("slidescan", "wsinfer", "tiatoolbox") for s in (96, 32)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of a row, medians of the repeats."""

    name: str
    stride: int
    windows: int
    start_s: float
    work_s: float
    windows_per_s: float
    mpx_per_s: float
    same_pixels: float
    """largest difference in probability from slidescan's fp32 patches, of the checked windows"""
    own_pixels: float
    own_pixels_mean: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one case: its times, and the probabilities of the checked windows."""

    start_s: float
    work_s: float
    windows: int
    origins: NDArray[np.float64]
    """upper-left corners of the checked windows, scan-plane px, (n, 2) as (y, x)"""
    probabilities: NDArray[np.float64]
    pixels: NDArray[np.uint8] | None = None
    """the pixels that a peer read there, (n, 96, 96, 3)"""


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings of all rows."""

    slide: Path
    plane_px: tuple[int, int]
    model: str
    network: Path
    mpp: float
    field_px: int
    threads: int
    batch: int
    workers: int
    peers_python: Path
    home: Path
    """home folder for the peers, which create folders in it"""


# --- the slide and the network ----------------------------------------------------------------


def write_slide(path: Path, side: int) -> None:
    """Write a slide that looks like H&E, `side` px square at 40x, with coarser levels.

    It is drawn at the model's resolution, with more nuclei in some places than in others, so that
    probabilities from 0 to 1 occur.
    """
    rng = np.random.default_rng(0)

    def smooth(sigma: float) -> NDArray[np.float32]:
        noise = gaussian_filter(rng.standard_normal((side // 4, side // 4), np.float32), sigma)
        return np.asarray(noise / noise.std(), np.float32)

    nuclear = 1 / (1 + np.exp(-6 * (smooth(2) + 0.9 * smooth(64) - 0.9)))[..., None]
    eosin, purple = np.array([225, 150, 190]), np.array([95, 60, 130])
    drawn = eosin * (1 - nuclear) + purple * nuclear + 18 * smooth(12)[..., None]
    image = Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8))
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(5):
            per_cm = 1e4 / MPP / 2**level
            tiff.write(
                np.asarray(image.reduce(2**level)),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
            )


class Portable(nn.Module):
    """The network as the peers call it: RGB (N, 3, 96, 96) from 0 to 1 in, logits (N, 2) out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(255 * x)
        return logits[:, :, 0, 0]


def export(model: Model, path: Path) -> None:
    """Write TorchScript, the one format that WSInfer takes."""
    example = torch.zeros(2, 3, model.card.field_px, model.card.field_px)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            Portable(model.network).eval(), example
        )
        torch.jit.save(traced, path)


# --- the rows ---------------------------------------------------------------------------------


def spent(command: Sequence[str | Path], home: Path) -> float:
    """Run a command that must succeed; its seconds."""
    environment = os.environ | {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise click.ClickException(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.perf_counter() - started


def scan(case: Case, setting: Setting, folder: Path) -> Run:
    """Run `slidescan heatmap`."""
    out = folder / "map.zarr"
    options = {
        "out": out,
        "model": setting.model,
        "mode": case.mode,
        "stride": case.stride,
        "precision": case.precision,
        "threads": setting.threads,
    }
    flags = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-m", "slidescan", "heatmap", str(setting.slide), *flags]
    whole = spent([*command, "--no-tissue-mask"], setting.home)
    heatmap = Heatmap.open(out)
    work = heatmap.provenance["last_run"]["seconds"]
    values, grid = heatmap.read(heatmap.grid.cells), heatmap.grid
    origins = grid.field.start + grid.stride * np.argwhere(heatmap.mask).astype(np.float64)
    chosen = sample(origins, setting.plane_px, setting.field_px)
    probabilities = values[heatmap.mask].astype(np.float64)[chosen]
    return Run(whole - work, work, len(origins), origins[chosen], probabilities)


def ask(case: Case, setting: Setting, folder: Path) -> tuple[Run, dict[str, str]]:
    """Run a peer; also returns the versions in its environment."""
    own = {"system": case.system, "stride_px": case.stride, "spawned": time.time()}
    job = asdict(setting) | own
    (folder / "job.json").write_text(json.dumps(job, default=str))
    spent([setting.peers_python, INSIDE, folder / "job.json"], setting.home)
    told = json.loads((folder / "result.json").read_text())
    versions = told.pop("versions")
    with np.load(folder / "windows.npz") as file:
        return Run(**told, **{key: file[key] for key in file.files}), versions


def checked(run: Run, plane: Plane, setting: Setting) -> dict[str, float]:
    """Differences of a run from slidescan's patch classifier, OpenVINO in fp32."""
    network = load(setting.model).network
    engine = make_engine(network, Backend("openvino", "cpu", "fp32", setting.threads))
    side = setting.field_px
    corners = np.rint(run.origins).astype(int).tolist()
    own = np.stack([plane.read(Box(y, x, y + side, x + side)) for y, x in corners])
    found = []
    for pixels in (own, own if run.pixels is None else run.pixels):
        found.append(np.abs(engine(pixels)[:, 0, 0] - run.probabilities))
    figures = (found[1].max(), found[0].max(), found[0].mean())
    names = ("same_pixels", "own_pixels", "own_pixels_mean")
    return {name: float(f"{value:.2g}") for name, value in zip(names, figures, strict=True)}


def measure(case: Case, setting: Setting, repeats: int) -> tuple[Row, dict[str, str]]:
    """Measure a row; also returns the versions in a peer's environment."""
    runs, versions = [], dict[str, str]()
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            if case.system == "slidescan":
                runs.append(scan(case, setting, Path(folder)))
            else:
                run, versions = ask(case, setting, Path(folder))
                runs.append(run)
    work = statistics.median(run.work_s for run in runs)
    with Slide.open(setting.slide) as slide:
        figures = checked(runs[0], slide.plane(setting.mpp), setting)
    row = Row(
        name=case.name,
        stride=case.stride,
        windows=runs[0].windows,
        start_s=round(statistics.median(run.start_s for run in runs), 2),
        work_s=round(work, 2),
        windows_per_s=round(runs[0].windows / work, 1),
        mpx_per_s=round(setting.plane_px[0] * setting.plane_px[1] / 1e6 / work, 3),
        **figures,
    )
    return row, versions


# --- the results ------------------------------------------------------------------------------


HEADER = (
    "System", "stride, px", "windows", "start, s", "work, s", "windows/s", "Mpx/s",
    "times our stride 8", "times ours, same stride",
    "largest difference, same pixels", "own pixels", "mean",
)  # fmt: skip


def table(rows: list[Row]) -> str:
    """Markdown; ratios to the densest map in fp32, and to the map of the same stride."""
    ours = {row.stride: row.work_s for row in rows if row.name == "slidescan dense fp32"}
    lines = []
    for row in rows:
        ratios = [f"{row.work_s / ours[s]:.1f}" if s in ours else "" for s in (8, row.stride)]
        speeds = f"{row.windows_per_s:,.0f}", f"{row.mpx_per_s:.2f}"
        off = (f"{each:g}" for each in (row.same_pixels, row.own_pixels, row.own_pixels_mean))
        took = f"{row.windows:,}", f"{row.start_s:.1f}", f"{row.work_s:.2f}"
        lines.append([row.name, row.stride, *took, *speeds, *ratios, *off])
    return markdown(HEADER, lines)


def draw(path: Path, rows: list[Row]) -> None:
    drawn, panels = style.figure(1, 2, "The same weights on the same slide")
    systems = list(dict.fromkeys(row.name.split()[0] for row in rows))
    labels = [f"{row.name}, {row.stride} px" for row in rows][::-1]
    colours = [style.COLOURS[systems.index(row.name.split()[0])] for row in rows][::-1]
    shown = (("work_s", "whole slide", "seconds"), ("windows_per_s", "windows", "windows a second"))
    for panel, (key, title, x) in zip(panels, shown, strict=True):
        values = [getattr(row, key) for row in rows][::-1]
        bars = panel.barh(labels, values, color=colours)
        panel.bar_label(
            bars, [f"{float(f'{value:.3g}'):,g}" for value in values], padding=2, fontsize=8
        )
        panel.margins(x=0.2)
        style.name(panel, title, x, "")
    panels[1].set_xscale("log")
    panels[1].set_yticklabels([])
    style.save(path, drawn)


def kept(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Read an earlier result of the same settings, or start an empty one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        found = {}
    same = all(found.get(key) == value for key, value in about.items())
    return found if same else {**about, "peers": {}, "rows": []}


def linked(slide: Path, folder: Path) -> Path:
    """Link the slide alone into a folder, for WSInfer; TIAToolbox finds no pyramid in a .tif."""
    suffix = ".svs" if slide.suffix.lower() in (".tif", ".tiff") else slide.suffix
    link = folder / f"{slide.stem}{suffix}"
    link.symlink_to(slide.resolve())
    return link


@click.command()
@click.option(
    "--peers-python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Python of the peers' environment; without it only slidescan runs.",
)
@click.option(
    "--slide", type=click.Path(exists=True, path_type=Path), help="A slide of one file, not MRXS."
)
@click.option("--size", default=8192, show_default=True, help="Side of the generated slide, px.")
@click.option("--model", default="default", show_default=True)
@click.option("--threads", default=cores(), show_default=True)
@click.option("--batch", default=64, show_default=True, help="Patches at a time.")
@click.option("--workers", type=int, help="Processes that read for a peer. [default: --threads]")
@click.option("--repeats", default=1, show_default=True)
@click.option("--only", multiple=True, help="Part of a row's name, e.g. 'wsinfer fp32 96'.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("peers"), show_default=True)
def main(
    peers_python: Path | None,
    slide: Path | None,
    size: int,
    model: str,
    threads: int,
    batch: int,
    workers: int | None,
    repeats: int,
    only: tuple[str, ...],
    out: Path,
) -> None:
    """Print a Markdown table; write peers.json and peers.png."""
    loaded = load(model)
    workers = threads if workers is None else workers
    setup = {
        "slide": slide.name if slide else f"generated, {size} px a side at {MPP} um/px",
        "model": loaded.identity,
        "threads": threads,
        "batch": batch,
        "workers": workers,
        "repeats": repeats,
        "machine": about()["machine"],
    }
    result = kept(out / "peers.json", setup)
    rows = {(row["name"], row["stride"]): Row(**row) for row in result["rows"]}
    with tempfile.TemporaryDirectory() as folder:
        slides = Path(folder, "slides")
        slides.mkdir()
        if slide is None:
            write_slide(slides / "generated.svs", size)
        path = linked(slide, slides) if slide else slides / "generated.svs"
        with Slide.open(path) as opened:
            plane_px = opened.plane(loaded.card.mpp).shape_px
        setting = Setting(
            slide=path,
            plane_px=plane_px,
            model=model,
            network=Path(folder, "network.pt"),
            mpp=loaded.card.mpp,
            field_px=loaded.card.field_px,
            threads=threads,
            batch=batch,
            workers=workers,
            peers_python=peers_python or Path(),
            home=Path(folder, "home"),
        )
        setting.home.mkdir()
        export(loaded, setting.network)
        if peers_python:  # a new home lacks matplotlib's list of fonts, which takes seconds to make
            spent([peers_python, "-c", "import matplotlib.font_manager"], setting.home)
        for case in CASES:
            if case.system != "slidescan" and peers_python is None:
                continue
            if only and not any(part in f"{case.name} {case.stride}" for part in only):
                continue
            row, versions = measure(case, setting, repeats)
            rows[case.name, case.stride] = row
            result["peers"] |= versions
            click.echo(f"{row}", err=True)
    order = [(case.name, case.stride) for case in CASES]
    found = [rows[key] for key in order if key in rows]
    result |= {
        "ours": {name: version(name) for name in VERSIONS},
        "date": about()["date"],
        "rows": [asdict(row) for row in found],
    }
    keep(out / "peers.json", result)
    draw(out / "peers.png", found)
    click.echo(table(found))


if __name__ == "__main__":
    main()
