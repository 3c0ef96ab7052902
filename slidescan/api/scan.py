"""Scan a slide from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from slidescan.api.maps import Map, open_map
from slidescan.api.progress import Calls, OnProgress
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session
from slidescan.tools.urls import AnyPlace, place_of

Source: TypeAlias = str | os.PathLike[str]
"""A shipped model's name, FILE.safetensors with its card beside it, or a run's folder."""


def scan(
    slide: AnyPlace,
    out: AnyPlace,
    model: Source | Sequence[Source] = "default",
    *,
    tta: Literal["d4"] | None = None,
    mode: Literal["dense", "patch"] = "dense",
    stride: int | None = None,
    slide_mpp: float | None = None,
    engine: Literal["openvino", "torch"] | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16", "int8", "auto"] = "fp32",
    threads: int | None = None,
    tissue_mask: bool = True,
    overwrite: bool = False,
    damaged: Literal["stop", "skip"] = "stop",
    cache: bool = True,
    progress: OnProgress | None = None,
) -> Map:
    """Scan a slide into a map on disk and open it; the same as `slidescan heatmap`.

    A scan that was stopped is resumed; a finished map with the same settings is opened. Prints
    nothing: what looks wrong with the slide becomes a Python warning.

    Args:
        slide: any slide that OpenSlide reads, or its address, e.g. "s3://bucket/slide.svs".
        out: the map, a folder in zarr format, e.g. "map.zarr" or "s3://bucket/map.zarr".
        model: a shipped model ("default", "best", "fast"), FILE.safetensors with its card beside
            it, or a run's folder; several are averaged.
        tta: "d4" averages eight flips and rotations.
        mode: "dense" shares computation between cells; "patch" scores each cell's patch alone.
        stride: scan-plane px between neighbouring cells; by default the model's own.
        slide_mpp: um/px of the slide's level 0, where it records none or a wrong one.
        engine: by default OpenVINO on the CPU, else torch.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        precision: arithmetic of the network.
        threads: processors to use; by default all that the process may use.
        tissue_mask: scan tissue only, or glass as well.
        overwrite: replace a finished map, or one made with other settings.
        damaged: where the slide cannot be read, raise an error ("stop") or leave the cells that see
            the damage NaN ("skip").
        cache: keep compiled networks in the user's cache folder, for a quicker start.
        progress: is called with a `Progress` after each tile, from the calling thread.

    Raises:
        SlidescanError: what is wrong and the remedy, in one line; finished blocks stay on disk.
    """
    options = chosen_options(
        model,
        tta=tta,
        mode=mode,
        stride=stride,
        slide_mpp=slide_mpp,
        engine=engine,
        device=device,
        precision=precision,
        threads=threads,
        tissue_mask=tissue_mask,
        overwrite=overwrite,
        damaged=damaged,
        cache=cache,
    )
    session = Session(
        options,
        Calls(progress),
        f"slidescan.scan({str(place_of(slide))!r}, {str(place_of(out))!r})",
    )
    session.run(place_of(slide), place_of(out))
    return open_map(out)


def chosen_options(
    model: Source | Sequence[Source], *, slide_mpp: float | None = None, **rest: Any
) -> Options:
    """The options of a session from those of a call."""
    models = (model,) if isinstance(model, str | os.PathLike) else tuple(model)
    return Options(models=tuple(map(str, models)), mpp=slide_mpp, **rest)
