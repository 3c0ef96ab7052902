"""The process that reads HDF5 files, with a library that crashes in the method of
SLIDESCAN_TEST_CRASH."""

import ctypes
import os
from typing import Any

from slidescan.patches.hdf5_process import Reader
from slidescan.tools.child_service import Methods, serve


def crash(**_: Any) -> None:
    ctypes.string_at(0)


def prepare(memory: memoryview) -> Methods:
    return Reader(memory).methods() | {os.environ["SLIDESCAN_TEST_CRASH"]: crash}


if __name__ == "__main__":
    serve(prepare)
