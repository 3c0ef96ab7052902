"""How long patches take from the command to the first batch: first with no cache, then with one.

    python benchmarks/starting.py DIR [CACHE]

Cold figures want the system's page cache dropped before: `sync; echo 3 > /proc/sys/vm/drop_caches`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from slidescan_train.data import load_data

if __name__ == "__main__":
    root = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch)
        for what in "first", "second":
            started = time.perf_counter()
            data = load_data(root, cache=cache, say=print)
            data.training.pixels(slice(64))
            count = len(data.training) + len(data.validation)
            print(f"{what} start: {count} patches in {time.perf_counter() - started:.1f} s")
            del data
