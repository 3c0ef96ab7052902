"""How slides are scanned, as chosen on the command line or from Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from slidescan.engines import backend, scan_modes
from slidescan.engines.averaging import Tta
from slidescan.models import model

Damaged: TypeAlias = Literal["stop", "skip"]


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
    slide_cache: Path | None = None
    """where slides that are named by addresses are kept; the user's cache folder where None"""
    slide_cache_gb: float | None = None
    """its limit; that of the environment where None, or else 100"""
