"""The process that reads slides, with a file on which OpenSlide crashes.

SLIDESCAN_TEST_CRASH is "NAME open", "NAME profile", "NAME X Y" (level 0, where reading crashes) or
"NAME any" (each read crashes, but for one that is alone): what crashes for the file NAME.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

from slidescan.slides.openslide_process import Reader
from slidescan.tools.child_service import serve


def crash() -> None:
    ctypes.string_at(0)


class Crashing(Reader):
    def __init__(self, memory: memoryview, what: str) -> None:
        super().__init__(memory)
        self.name, *self.what = what.split()

    def open(self, path: str) -> dict[str, Any]:
        if Path(path).name == self.name and self.what == ["open"]:
            crash()
        return super().open(path)

    def profile_shift(self) -> float | None:
        if Path(self._path).name == self.name and self.what == ["profile"]:
            crash()
        return super().profile_shift()

    def read(self, level: int, regions: Any, start: int) -> list[str | None]:
        if Path(self._path).name == self.name:
            places = [[str(x), str(y)] for x, y, _, _ in regions]
            if (level == 0 and self.what in places) or (self.what == ["any"] and len(regions) > 1):
                crash()
        return super().read(level, regions, start)


if __name__ == "__main__":
    serve(lambda memory: Crashing(memory, os.environ["SLIDESCAN_TEST_CRASH"]).methods())
