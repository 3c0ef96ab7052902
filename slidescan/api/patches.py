"""Score patches from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slidescan.api.progress import Calls, OnProgress
from slidescan.errors import DataError
from slidescan.patches import sources
from slidescan.patches.decoding import IMAGES
from slidescan.patches.prediction import Options, Predictor

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def predict(
    patches: Paths | NDArray[np.uint8],
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "default",
    *,
    tta: Literal["d4"] | None = None,
    engine: Literal["openvino", "torch"] | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16", "int8", "auto"] = "fp32",
    threads: int | None = None,
    cache: bool = True,
    progress: OnProgress | None = None,
) -> NDArray[np.float32]:
    """Score patches: the probability that their central 32 x 32 px hold tumour.

    The numbers are those of `slidescan predict`; nothing is written.

    Args:
        patches: RGB of shape (N, 96, 96, 3) uint8; or image files of 96 x 96 px; or one folder or
            HDF5 file, as `slidescan predict` takes them.
        model: as for `slidescan.scan`; several are averaged.
        tta: "d4" averages eight flips and rotations.
        engine: by default OpenVINO on the CPU, else torch.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        precision: arithmetic of the network.
        threads: processors to use; by default all that the process may use.
        cache: keep compiled networks in the user's cache folder, for a quicker start.
        progress: is called with a `Progress` after each batch.

    Returns:
        Probabilities (N,) in the order of the patches; of a folder, in the order of the names.

    Raises:
        DataError: a patch cannot be read or has another size.
        SlidescanError: anything else that a user can correct.
        ValueError: an array of another shape or type.
    """
    models = (model,) if isinstance(model, str | os.PathLike) else tuple(model)
    predictor = Predictor(
        Options(tuple(map(str, models)), tta, engine, device, precision, threads, cache)
    )
    source = _source(patches)
    scores, bad = predictor.score(source, Calls(progress))
    for row, why in bad.items():
        raise DataError(f"{source.name(row)}: {why}; {len(bad)} of {len(scores)} cannot be scored")
    return scores


def _source(patches: Paths | NDArray[np.uint8]) -> sources.Source:
    if isinstance(patches, np.ndarray):
        return sources.Array(patches)
    if isinstance(patches, str | os.PathLike):
        path = Path(patches)
        if path.suffix.lower() in IMAGES and not path.is_dir():
            return sources.Files([str(path)])
        return sources.find(path)
    return sources.Files([str(path) for path in patches], unique=False)
