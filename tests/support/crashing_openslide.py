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

NAME, *WHAT = os.environ["SLIDESCAN_TEST_CRASH"].split()


def crash() -> None:
    ctypes.string_at(0)


class Crashing(Reader):
    def open(self, path: str) -> dict[str, Any]:
        if Path(path).name == NAME and WHAT == ["open"]:
            crash()
        return super().open(path)

    def profile_shift(self) -> float | None:
        if Path(self._path).name == NAME and WHAT == ["profile"]:
            crash()
        return super().profile_shift()

    def read(self, level: int, regions: Any, start: int) -> list[str | None]:
        if Path(self._path).name == NAME:
            places = [[str(x), str(y)] for x, y, _, _ in regions]
            if (level == 0 and WHAT in places) or (WHAT == ["any"] and len(regions) > 1):
                crash()
        return super().read(level, regions, start)


if __name__ == "__main__":
    serve(lambda memory: Crashing(memory).methods())
