"""The patch classifier, asked about the patch under the cursor."""

from __future__ import annotations

import threading
from pathlib import Path

from slidescan.engines.backend import choose
from slidescan.engines.ensemble import Ensemble
from slidescan.errors import MapError
from slidescan.geometry import Box
from slidescan.maps.finished import EngineSettings, settings_of
from slidescan.maps.store import Heatmap
from slidescan.models.identity import described, same_models, shipped_models
from slidescan.scanning.pipeline import score_patches
from slidescan.scanning.verification import open_slide_of
from slidescan.tools.hardware import cores, cuda_devices


class PatchClassifier:
    """Scores single patches as the map's own scan did; built when first asked."""

    def __init__(self, heatmap: Heatmap, slide: Path, models: tuple[str, ...]) -> None:
        """Load the model that made the map. Raises SlidescanError where there is none here."""
        made = settings_of(heatmap, EngineSettings)
        ensemble = Ensemble.load(
            models or shipped_models(heatmap.settings), heatmap.settings.get("tta"), cache=True
        )
        if not same_models(heatmap.settings, ensemble.record()):
            raise MapError(
                f"{heatmap.path}: made with {described(heatmap.settings)}, not with "
                f"{described(ensemble.record())}; name the map's model with --model"
            )
        # A map made on a GPU is checked on the CPU where there is none.
        here = made.device == "cpu" or cuda_devices() > 0
        engine, device = (made.engine, made.device) if here else (None, "cpu")
        self._engine = ensemble.engine(choose(engine, device, made.precision, cores()))
        self._heatmap, self._path = heatmap, slide
        self._lock = threading.Lock()

    def score(self, row: int, column: int) -> float:
        """P(tumour) of the 96 x 96 px around a cell.

        Raises:
            SlideError: the slide cannot be read.
            MapError: the slide is another one.
        """
        heatmap, cell = self._heatmap, Box(row, column, row + 1, column + 1)
        # One at a time, as engines take calls.
        with self._lock, open_slide_of(heatmap, self._path) as slide:
            plane = slide.plane(heatmap.mpp)
            (score,) = score_patches([cell], heatmap.grid, plane, self._engine)
        return score


def box_l0(heatmap: Heatmap, row: int, column: int) -> tuple[float, float, float, float]:
    """The 96 x 96 px around a cell in level-0 px, (x, y, width, height)."""
    px = heatmap.grid.pixels(Box(row, column, row + 1, column + 1))
    dy, dx = (heatmap.mpp / um for um in heatmap.settings["slide"]["mpp"])
    return px.x0 * dx, px.y0 * dy, px.shape[1] * dx, px.shape[0] * dy
