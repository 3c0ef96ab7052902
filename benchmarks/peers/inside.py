"""One row of compare.py, in the environment of WSInfer and TIAToolbox.

    PYTHON benchmarks/peers/inside.py JOB.json

JOB names the system, the slide, the TorchScript file and the settings; results go to result.json
and windows.npz beside it. Timed is the system's own call, from the slide to its file of
probabilities, loading the model and planning the windows included, imports not.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

VERSIONS = ("wsinfer", "tiatoolbox", "torch", "torchvision", "openslide-python", "openslide-bin")

CHECKED = 400
"""Windows whose pixels are kept, at most."""


class Found(NamedTuple):
    """The result of a system on a slide."""

    began: float
    ended: float
    """clock at the beginning and the end of the call, s"""
    origins: NDArray[np.float64]
    """upper-left corners of the windows, scan-plane px, (n, 2) as (y, x)"""
    probabilities: NDArray[np.float64]
    """P(tumour), (n,)"""
    pixels: Callable[[int], NDArray[np.uint8]]
    """the pixels that it read of a window, (96, 96, 3)"""


def refuse_network(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook against network access. Sockets of the file system pass: workers use them."""
    asks = event in ("socket.getaddrinfo", "socket.gethostbyname")
    if asks or (event == "socket.connect" and args[0].family != socket.AF_UNIX):
        raise RuntimeError(f"asked for the network: {event}{args}")


def mend_imports() -> torch.library.Library:
    """Make both importable in one environment, on torch's CPU build.

    The registry's torchvision has no operators for that build and looks for two when it is
    imported; WSInfer looks for zarr 2, which only its TiffSlide reader would use. None of this is
    called here. The operators exist as long as the returned library.
    """
    import zarr.storage

    zarr.storage.KVStore = dict  # type: ignore[attr-defined]
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(signature)  # type: ignore[no-untyped-call]
    return library


def wsinfer(job: dict[str, Any], folder: Path) -> Found:
    """Run WSInfer by its Python API; its command would download a registry of models."""
    from wsinfer import wsi  # type: ignore[import-not-found]
    from wsinfer.modellib.data import WholeSlideImagePatches  # type: ignore[import-not-found]
    from wsinfer.modellib.models import (  # type: ignore[import-not-found]
        LocalModelTorchScript,
    )
    from wsinfer.modellib.run_inference import run_inference  # type: ignore[import-not-found]
    from wsinfer.modellib.transforms import (  # type: ignore[import-not-found]
        make_compose_from_transform_config,
    )
    from wsinfer.patchlib import (  # type: ignore[import-not-found]
        segment_and_patch_directory_of_slides,
    )
    from wsinfer_zoo.client import ModelConfiguration  # type: ignore[import-not-found]

    slide, results = Path(job["slide"]), folder / "wsinfer"
    results.mkdir()
    told = {
        "spec_version": "1.0",
        "num_classes": 2,
        "class_names": ["normal", "tumour"],
        "architecture": "slidescan",
        "patch_size_pixels": job["field_px"],
        "spacing_um_px": job["mpp"],
        "transform": [
            {"name": "Resize", "arguments": {"size": job["field_px"]}},
            {"name": "ToTensor"},
        ],
    }
    config = ModelConfiguration.from_dict(told)
    began = time.time()
    segment_and_patch_directory_of_slides(
        slide.parent,
        results,
        patch_size_px=job["field_px"],
        patch_spacing_um_px=job["mpp"],
        binary_threshold=-1,  # everything is tissue
        overlap=1 - job["stride_px"] / job["field_px"],
    )
    run_inference(
        slide.parent,
        results,
        LocalModelTorchScript(config, job["network"]),
        batch_size=job["batch"],
        num_workers=job["workers"],
        speedup=True,
    )
    ended = time.time()
    written = results / "model-outputs-csv" / f"{slide.stem}.csv"
    table = np.genfromtxt(written, delimiter=",", names=True)
    origins_l0 = np.stack([table["miny"], table["minx"]], axis=1)
    origins = origins_l0 * wsi.get_avg_mpp(slide) / job["mpp"]
    patches = WholeSlideImagePatches(
        slide,
        results / "patches" / f"{slide.stem}.h5",
        make_compose_from_transform_config(config.transform),
    )
    patches.worker_init()

    def pixels(index: int) -> NDArray[np.uint8]:
        image = (255 * patches[index][0]).round().byte().permute(1, 2, 0)
        return np.asarray(image.numpy(), np.uint8)

    return Found(began, ended, origins, table["prob_tumour"], pixels)


def tiatoolbox(job: dict[str, Any], folder: Path) -> Found:
    """Run TIAToolbox with a model object; for a name it would download weights."""
    import zarr
    from tiatoolbox.models.engine.patch_predictor import (  # type: ignore[import-not-found]
        PatchPredictor,
    )
    from tiatoolbox.models.models_abc import ModelABC  # type: ignore[import-not-found]

    class Exported(ModelABC):  # type: ignore[misc]
        def __init__(self, path: str) -> None:
            super().__init__()
            loaded = torch.jit.load(path)  # type: ignore[no-untyped-call]
            # As WSInfer's speedup does.
            self.network = torch.jit.optimize_for_inference(torch.jit.freeze(loaded.eval()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(x)
            return logits

        @staticmethod
        def infer_batch(
            model: Any, batch_data: torch.Tensor, *, device: str
        ) -> NDArray[np.float32]:
            x = batch_data.to(device).permute(0, 3, 1, 2).float().contiguous() / 255
            with torch.inference_mode():
                scores: NDArray[np.float32] = model(x).softmax(1).cpu().numpy()
            return scores

        @staticmethod
        def postproc(image: Any) -> Any:
            return image.argmax(axis=-1)

    slide, side, stride = Path(job["slide"]), job["field_px"], job["stride_px"]
    began = time.time()
    predictor = PatchPredictor(
        Exported(job["network"]),
        batch_size=job["batch"],
        num_workers=job["workers"],
        verbose=False,
    )
    out = predictor.run(
        [slide],
        patch_mode=False,
        input_resolutions=[{"units": "mpp", "resolution": job["mpp"]}],
        patch_input_shape=(side, side),
        stride_shape=(stride, stride),
        auto_get_mask=False,
        return_probabilities=True,
        output_type="zarr",
        save_dir=folder / "tiatoolbox",
    )[slide]
    ended = time.time()
    results: Any = zarr.open_group(out, mode="r")
    origins = np.asarray(results["coordinates"], np.float64)[:, 1::-1]
    probabilities = np.asarray(results["probabilities"], np.float64)[:, 1]
    patches = predictor.dataloader.dataset

    def pixels(index: int) -> NDArray[np.uint8]:
        return np.asarray(patches[index]["image"], np.uint8)

    return Found(began, ended, origins, probabilities, pixels)


def sample(
    origins: NDArray[np.float64], plane_px: tuple[int, int], field_px: int
) -> NDArray[np.intp]:
    """Draw windows among those wholly inside the scan plane."""
    corners, last = np.rint(origins), np.array(plane_px) - field_px
    inside = np.flatnonzero(((corners >= 0) & (corners <= last)).all(axis=1))
    chosen = np.random.default_rng(0).choice(inside, min(CHECKED, len(inside)), replace=False)
    return np.asarray(chosen, np.intp)


def main() -> None:
    """Run the system that the job names."""
    sys.addaudithook(refuse_network)
    mended = mend_imports()
    path = Path(sys.argv[1])
    job = json.loads(path.read_text())
    torch.set_num_threads(job["threads"])
    run = {"wsinfer": wsinfer, "tiatoolbox": tiatoolbox}[job["system"]]
    found = run(job, path.parent)
    chosen = sample(found.origins, job["plane_px"], job["field_px"])
    np.savez(
        path.with_name("windows.npz"),
        origins=found.origins[chosen],
        probabilities=found.probabilities[chosen],
        pixels=np.stack([found.pixels(i) for i in chosen.tolist()]),
    )
    del mended
    told = {
        "start_s": found.began - job["spawned"],
        "work_s": found.ended - found.began,
        "windows": len(found.origins),
        "versions": {name: version(name) for name in VERSIONS},
    }
    path.with_name("result.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
