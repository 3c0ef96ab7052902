"""A network on a GPU: exactness, speed, share of the card's peak, and what limits a whole scan.

    python -m benchmarks.speed.gpu [--device cuda] [--model default] [--out gpu]

Four measurements in one run, on one card and, where there are several, on all:

1. Exactness: the cells of a map by every precision and strategy of the torch engine, compared with
   the same cells on the CPU in fp32, and with the cells' own patches on the card.
2. Speed: megapixels a second, halo excluded, by the side of a tile and the number of tiles at once;
   `call` includes both copies. Then from several threads, as in a scan.
3. Peak: the operations that the network takes for a pixel and the bytes that its layers read and
   write, counted layer by layer without running it, as shares of what a large matrix product and
   a large copy reach on the same card in the same run. Layers that torch.compile joins save bytes,
   so its share may be above 1.
4. Scan: a generated slide, read alone and scanned, by 1 to 16 threads.

Writes FOLDER/gpu.json and .png and prints Markdown. `--device cpu` runs all of it with small sizes
to try the script out; the figures of a CPU come from limits.py.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import click
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.speed.limits import SQUARE_PX, Quiet, network_alone, read, tiles, timed
from benchmarks.speed.shared import texture
from benchmarks.support.peak import counted, peaks, seconds
from benchmarks.support.pyramids import write_pyramid
from benchmarks.support.reports import about, keep, markdown
from slidescan.engines.backend import TOLERANCE, Precision
from slidescan.engines.engine_pool import EnginePool
from slidescan.engines.torch_engine import Strategy, TorchEngine
from slidescan.geometry import Field, Grid
from slidescan.models.model import Model, load
from slidescan.networks.network import Network
from slidescan.pictures import style
from slidescan.protocols import Engine
from slidescan.scanning import pipeline
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session
from slidescan.slides.slide import Slide
from slidescan.tools.hardware import cores

CELLS = 64
"""Cells along a side of the compared map."""
PATCHES = 256
"""Cells of it to score as patches."""
LARGEST_PX = 64 * 2**20
"""The most pixels in one call of the network."""
LANES = (1, 2, 3)
"""Numbers of threads on a card, each with an engine."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large each measurement is."""

    sides: tuple[int, ...]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    strategies: tuple[Strategy, ...]
    squares: int
    """Squares of SQUARE_PX along a side of the slide."""
    threads: tuple[int, ...]
    product: int
    """Side of the matrices that are multiplied."""
    copied: int
    """Bytes that are copied."""


SIZES = {
    "cuda": Sizes(
        sides=(1024, 2048, 4096),
        batches=(1, 4, 16),
        precisions=get_args(Precision),
        strategies=get_args(Strategy),
        squares=12,  # 151 megapixels of the scan plane
        threads=(1, 2, 4, 8, 16),
        product=8192,
        copied=2**30,
    ),
    # fp16 takes a CPU 30 times as long.
    "cpu": Sizes((256,), (1, 2), ("fp32", "bf16"), ("plain",), 1, (1, 2), 512, 2**24),
}


@dataclass(frozen=True, slots=True)
class Exact:
    """Differences of the cells of a map."""

    precision: Precision
    strategy: Strategy
    from_cpu: float
    """Largest difference from the CPU in fp32."""
    mean_from_cpu: float
    from_patches: float
    """Largest difference from the cells' patches, in the same precision on the same card."""

    @property
    def sound(self) -> bool:
        """Within the tolerance; NaN is not."""
        return max(self.from_cpu, self.from_patches) <= TOLERANCE[self.precision]


@dataclass(frozen=True, slots=True)
class Speed:
    """Scan-plane megapixels a second; None where the card's memory was too small."""

    precision: Precision
    strategy: Strategy
    side: int
    batch: int
    network: float | None
    call: float | None
    of_product: float | None = None
    """Share of the matrix product's arithmetic a second."""
    of_copy: float | None = None
    """Share of the copy's bytes a second."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Megapixels a second of calls from several threads."""

    cards: int
    lanes: int
    mpx_per_s: float


@dataclass(frozen=True, slots=True)
class Scan:
    """Times of reading and scanning a slide with a number of threads."""

    threads: int
    read_s: float
    scan_s: float


# --- 1: exactness ------------------------------------------------------------------------------


def compare(model: Model, device: str, precision: Precision, strategy: Strategy) -> Exact:
    grid = Grid((CELLS * model.card.stride_px,) * 2, model.card.stride_px, model.card.field_px)
    field = Field(0, grid.field_px, grid.stride)
    tile = texture(field.extent(CELLS), seed=3)[None]
    there = TorchEngine(model.network, device, precision, cores(), strategy)
    for _ in range(3):  # a shape is compiled or captured when it is used again
        scores = there(tile)[0]
    on_cpu = TorchEngine(model.network, "cpu", "fp32", cores())(tile)[0]
    windows = np.lib.stride_tricks.sliding_window_view(tile[0], (field.size,) * 2, axis=(0, 1))
    drawn = tuple(np.random.default_rng(0).integers(0, CELLS, (2, PATCHES)))
    patches = windows[:: field.stride, :: field.stride][drawn].transpose(0, 2, 3, 1)
    apart = np.abs(scores - on_cpu)
    alone = np.abs(there(patches)[:, 0, 0] - scores[drawn])
    return Exact(precision, strategy, float(apart.max()), float(apart.mean()), float(alone.max()))


# --- 2: speed ----------------------------------------------------------------------------------


def noise(field: Field, side: int, batch: int) -> NDArray[np.uint8]:
    """Noise whose cells cover `side` pixels, (batch, H, W, 3)."""
    extent = field.extent(side // field.stride)
    return np.random.default_rng(0).integers(0, 256, (batch, extent, extent, 3), np.uint8)


def measure(engine: TorchEngine, field: Field, side: int, batch: int) -> tuple[float, float]:
    """Measure megapixels a second of the network alone and of whole calls."""
    pixels = noise(field, side, batch)
    megapixels = batch * side**2 / 1e6
    with torch.inference_mode(), engine.on_stream():
        there = torch.from_numpy(pixels).to(engine.device)
        alone = megapixels / seconds(lambda: engine.run(there))
    return alone, megapixels / seconds(lambda: engine(pixels))


def speeds(network: Network, device: str, sizes: Sizes) -> Iterator[Speed]:
    kinds = itertools.product(sizes.precisions, sizes.strategies, sizes.sides, sizes.batches)
    for precision, strategy, side, batch in kinds:
        if batch * side**2 <= LARGEST_PX:
            torch.compiler.reset()  # it keeps 8 shapes and silently runs others uncompiled
            engine = TorchEngine(network, device, precision, cores(), strategy)
            found: tuple[float | None, float | None] = None, None
            try:
                found = measure(engine, network.field, side, batch)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            yield Speed(precision, strategy, side, batch, *found)


def lanes(make: Callable[[str], Engine], device: str, field: Field) -> Iterator[Lane]:
    """Measure calls from several threads with a scan's tiles, on one card and on all."""
    pixels = noise(field, pipeline.TILE_PX, 1)
    there = torch.cuda.device_count() if device == "cuda" else 1
    for cards, count in itertools.product(sorted({1, there}), LANES):
        names = [f"cuda:{i}" for i in range(cards)] if device == "cuda" else [device]
        spread = EnginePool([make(name) for name in names * count])
        with ThreadPoolExecutor(spread.at_once) as pool:
            taken = seconds(lambda: in_turn(pool, spread, [pixels] * 8 * spread.at_once))  # noqa: B023
        yield Lane(cards, count, 8 * spread.at_once * pipeline.TILE_PX**2 / 1e6 / taken)


def in_turn(pool: ThreadPoolExecutor, engine: Engine, images: Iterable[NDArray[np.uint8]]) -> None:
    for _ in pool.map(engine, images):
        pass


# --- 3: the peak -------------------------------------------------------------------------------


def shares(speed: Speed, taken: tuple[float, float], peak: tuple[float, float]) -> Speed:
    if speed.network is None:
        return speed
    product, copied = (speed.network * 1e6 * t / p for t, p in zip(taken, peak, strict=True))
    return replace(speed, of_product=product, of_copy=copied)


# --- 4: the whole scan -------------------------------------------------------------------------


def scans(options: Callable[[int], Options], sizes: Sizes) -> tuple[float, float, list[Scan]]:
    """Megapixels of a slide, seconds of the network alone, and times by number of threads."""
    found, megapixels = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder, "slide.tif")
        write_pyramid(slide, np.ones((sizes.squares, sizes.squares), np.bool_), SQUARE_PX)
        session = Session(options(1), Quiet())
        with Slide.open(slide) as opened:
            boxes = tiles(session, opened.plane(session.ensemble.mpp))
        network_s = network_alone(session.engine, boxes).seconds
        for threads in tqdm(sizes.threads, desc="scans", disable=None):
            session = Session(options(threads), Quiet())
            network_alone(session.engine, boxes)  # every shape once
            with Slide.open(slide) as opened:
                plane = opened.plane(session.ensemble.mpp)
                reading = timed(partial(read, plane, boxes, threads)).seconds
            out = Path(folder, f"{threads}.zarr")
            started = time.perf_counter()
            megapixels = session.run(slide, out).megapixels
            found.append(Scan(threads, reading, time.perf_counter() - started))
    return megapixels, network_s, found


def wall(network_s: float, scans: list[Scan]) -> str:
    """Tell what limits a scan and what would help."""
    most = scans[-1]
    ratio = most.read_s / network_s
    efficiency = max(most.read_s, network_s) / most.scan_s
    begun = (
        f"With {most.threads} threads reading takes {most.read_s:.2f} s, the network "
        f"{network_s:.2f} s and the scan {most.scan_s:.2f} s, {efficiency:.2f} of the speed "
        "that the slower of the two allows. "
    )
    if ratio <= 1:
        return begun + f"The network is the limit, by a factor of {1 / ratio:.1f}."
    first = scans[0]
    enough = first.read_s * first.threads / network_s
    return begun + (
        f"Decoding JPEG is the limit, by a factor of {ratio:.1f}. At the speed of {first.threads} "
        f"thread(s) {enough:.0f} would suffice, if they did not slow each other down; other "
        "remedies are a slide with a level near the model's resolution, several processes on "
        "several slides, and decoding on the card."
    )


# --- what is printed ---------------------------------------------------------------------------


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    return markdown(head.split(", "), [[_shown(value) for value in row] for row in rows])


def _shown(value: object) -> str:
    match value:
        case None:
            return "out of memory"
        case float():
            return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
        case _:
            return str(value)


def draw(path: Path, speeds: list[Speed], network_s: float, scans: list[Scan]) -> None:
    drawn, (left, right) = style.figure(1, 2, "A network on this device")
    kinds = list(dict.fromkeys((s.precision, s.strategy) for s in speeds))
    marks = dict(zip(get_args(Strategy), "osv^", strict=True))
    colours = dict(zip(get_args(Precision), style.COLOURS, strict=False))
    for precision, strategy in kinds:
        best: dict[int, float] = {}
        for s in speeds:
            if (s.precision, s.strategy) == (precision, strategy) and s.network is not None:
                best[s.side] = max(best.get(s.side, 0), s.network)
        line = f"{marks[strategy]}-"
        label = f"{precision} {strategy}"
        left.plot([*best], [*best.values()], line, color=colours[precision], label=label)
    style.name(left, "The network, best batch", "side of a tile, px", "megapixels a second")
    threads = [s.threads for s in scans]
    right.plot(threads, [s.read_s for s in scans], "o-", color=style.BLUE, label="reading alone")
    right.plot(threads, [s.scan_s for s in scans], "o-", color=style.ORANGE, label="scan")
    right.axhline(network_s, color=style.GREEN, label="network alone")
    style.name(right, "A slide", "threads", "seconds")
    for panel in (left, right):
        panel.set_ylim(bottom=0)
        style.legend(panel)
    style.save(path, drawn)


def machine(device: str) -> dict[str, object]:
    found: dict[str, object] = {**about(), "torch": torch.__version__}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": f"{card.name}, {card.total_memory / 2**30:.0f} GiB",
            "cards": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--model", default="default", show_default=True)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(get_args(Precision)),
    multiple=True,
    help="Precisions. [default: all, on a CPU fp32 and bf16]",
)
@click.option(
    "--strategy",
    "strategies",
    type=click.Choice(get_args(Strategy)),
    multiple=True,
    help="Strategies besides plain. [default: all, on a CPU none]",
)
@click.option(
    "--depthwise",
    type=click.Choice(["auto", "cudnn", "native"]),
    default="auto",
    show_default=True,
    help="Kernels for depthwise convolutions.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("gpu"), show_default=True)
def main(
    device: str,
    model: str,
    precisions: tuple[Precision, ...],
    strategies: tuple[Strategy, ...],
    depthwise: str,
    out: Path,
) -> None:
    """Print Markdown tables and the limit; exit with 1 if a cell exceeds the tolerance."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(
            "torch finds no CUDA device; --device cpu tries the script out on the CPU"
        )
    torch.backends.cudnn.depthwise_kernel = depthwise
    sizes, loaded = SIZES[device], load(model)
    sizes = replace(
        sizes,
        precisions=precisions or sizes.precisions,
        strategies=tuple(dict.fromkeys(("plain", *(strategies or sizes.strategies)))),
    )
    kinds = list(itertools.product(sizes.precisions, sizes.strategies))
    exact = [compare(loaded, device, *kind) for kind in tqdm(kinds, desc="exact", disable=None)]
    taken = {p: counted(loaded.network, p) for p in sizes.precisions}
    peak = {p: peaks(device, p, sizes.product, sizes.copied) for p in sizes.precisions}
    speed = [
        shares(s, taken[s.precision], peak[s.precision])
        for s in tqdm(speeds(loaded.network, device, sizes), desc="network", disable=None)
    ]
    # As in a scan: one tile, strategy plain.
    plain = (s for s in speed if (s.strategy, s.side, s.batch) == ("plain", sizes.sides[0], 1))
    best = max(plain, key=lambda s: s.call or 0).precision
    lane = list(
        lanes(
            lambda name: TorchEngine(loaded.network, name, best, cores()),
            device,
            loaded.network.field,
        )
    )
    megapixels, network_s, scan_rows = scans(
        lambda threads: Options(
            (model,), engine="torch", device=device, precision=best, threads=threads
        ),
        sizes,
    )
    result = {
        "exact": [asdict(e) for e in exact],
        "flops_and_bytes_per_pixel": taken,
        "peak_flops_and_bytes_per_s": peak,
        "network": [asdict(s) for s in speed],
        "lanes": [asdict(each) for each in lane],
        "scan_precision": best,
        "scan_megapixels": megapixels,
        "scan_network_s": network_s,
        "scans": [asdict(s) for s in scan_rows],
        "model": model,
        "depthwise": depthwise,
        **machine(device),
    }
    keep(out / "gpu.json", result)
    draw(out / "gpu.png", speed, network_s, scan_rows)
    click.echo(report(exact, taken, peak, speed, lane, best, megapixels, scan_rows))
    click.echo("\n" + wall(network_s, scan_rows))
    wrong = [f"{e.precision} {e.strategy}" for e in exact if not e.sound]
    if wrong:
        raise click.ClickException(f"beyond their tolerance: {', '.join(wrong)}")


def report(
    exact: list[Exact],
    taken: dict[Precision, tuple[float, float]],
    peak: dict[Precision, tuple[float, float]],
    speed: list[Speed],
    lane: list[Lane],
    best: Precision,
    megapixels: float,
    scan_rows: list[Scan],
) -> str:
    parts = [
        table(
            "Precision, Strategy, Largest difference from the CPU, Mean, Largest from patches",
            (asdict(e).values() for e in exact),
        ),
        table(
            "Precision, kFLOP a pixel, Bytes a pixel, Peak TFLOP/s, Peak GB/s",
            (
                (p, taken[p][0] / 1e3, taken[p][1], peak[p][0] / 1e12, peak[p][1] / 1e9)
                for p in peak
            ),
        ),
        table(
            "Precision, Strategy, Tile px, Batch, Network Mpx/s, Call Mpx/s, Of product, Of copy",
            (asdict(s).values() for s in speed),
        ),
        table("Cards, Threads a card, Mpx/s", (asdict(each).values() for each in lane)),
        f"A slide of {megapixels:.0f} megapixels, {best}:",
        table("Threads, Read s, Scan s", (asdict(s).values() for s in scan_rows)),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
