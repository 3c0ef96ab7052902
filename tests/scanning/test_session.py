"""What a session holds, and for how long."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import slides

from slidescan.commands.terminal import Terminal
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session


def test_an_engine_goes_with_its_session(tiny_model: Path, tmp_path: Path) -> None:
    slides.write_slide(tmp_path / "a.tif", slides.checkerboard(200, 200), mpp=0.972)
    options = Options(models=(str(tiny_model),), engine="torch", threads=1, tissue_mask=False)
    session = Session(options, Terminal())
    # Its buffers are large: a program that scans slide after slide must not wait for the collector.
    gc.disable()
    try:
        session.run(tmp_path / "a.tif", tmp_path / "a.zarr")
        engine, held = weakref.ref(session.engine), weakref.ref(session)
        del session
        assert held() is None
        assert engine() is None
    finally:
        gc.enable()
