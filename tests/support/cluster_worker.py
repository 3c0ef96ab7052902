"""Dask loads this into workers of tests (`distributed.worker.preload`): small blocks, and kills.

SLIDESCAN_TEST_BLOCKS names a folder. A worker writes a line into it for each block of a map that it
has written, and waits while there is a file `hold` in it. SLIDESCAN_TEST_KILLS is how many workers
end by SIGKILL, each before its second block.
"""

from __future__ import annotations

import os
import signal
import time
from functools import wraps
from pathlib import Path
from typing import Any

from slidescan.maps import layout
from slidescan.maps.store import Heatmap
from slidescan.scanning.cluster import tasks

BLOCK_CELLS = 32
SECONDS_A_BLOCK = 0.1


def dask_setup(_worker: object) -> None:
    """Dask calls this when a worker starts."""
    layout.BLOCK_CELLS, layout.CHUNK_CELLS = BLOCK_CELLS, BLOCK_CELLS // 2
    tasks.TASK_PX = 2 * (BLOCK_CELLS * 8) ** 2
    folder = Path(os.environ["SLIDESCAN_TEST_BLOCKS"])
    kills = int(os.environ.get("SLIDESCAN_TEST_KILLS", 0))
    if not hasattr(Heatmap.write, "__wrapped__"):  # a worker may start twice in a process
        Heatmap.write = _write(Heatmap.write, folder, kills)  # type: ignore[method-assign]
    (folder / f"{os.getpid()}.worker").touch()


def _write(original: Any, folder: Path, kills: int) -> Any:
    written = 0

    @wraps(original)
    def write(self: Heatmap, block: Any, *args: Any) -> None:
        nonlocal written
        time.sleep(SECONDS_A_BLOCK)
        while written and (folder / "hold").exists():
            time.sleep(0.01)
        if written == 1 and any(_first(folder / f"kill-{i}") for i in range(kills)):
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, block, *args)
        written += 1
        with (folder / "blocks.txt").open("a") as file:
            file.write(f"{os.getpid()} {self.path.name} {block.y0} {block.x0}\n")

    return write


def _first(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
