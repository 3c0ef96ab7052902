"""A child process whose methods misbehave."""

import ctypes
import os
import sys
from typing import Any

from slidescan.tools.child_service import AnswerError, Methods, serve


def prepare(memory: memoryview) -> Methods:
    def fill(start: int, size: int, value: int) -> int:
        memory[start : start + size] = bytes([value]) * size
        return size

    def refuse(why: str) -> None:
        raise AnswerError(why)

    def crash(say: str = "") -> None:
        sys.stderr.write(say)
        sys.stderr.flush()
        ctypes.string_at(0)

    def bug() -> Any:
        return 1 // 0

    def garbage() -> None:
        os.write(ANSWERS, b"no JSON\n")

    def print_much() -> int:
        library = ctypes.CDLL(None)
        for _ in range(100):
            library.printf(b"%s\n", b"x" * 10_000)
        return 1

    def spin() -> None:
        while True:
            pass

    def take_memory() -> int:
        return len(bytearray(9 * 2**30))

    return {
        each.__name__: each
        for each in (fill, refuse, crash, bug, garbage, print_much, take_memory, spin, os.getpid)
    }


ANSWERS = os.dup(1)

if __name__ == "__main__":
    serve(prepare)
