"""The process that tries ONNX files, with a library that crashes at every one."""

import ctypes
from typing import Any

from slidescan.tools.child_service import serve


def crash(**_: Any) -> None:
    ctypes.string_at(0)


if __name__ == "__main__":
    serve(lambda _: {"attempt": crash, "close": lambda: None})
