"""A process of `--jobs` that dies at the slide that SLIDESCAN_TEST_CRASH names."""

import os
import signal
from pathlib import Path
from typing import Any

from slidescan.scanning import jobs
from slidescan.scanning.session import Session


def work(*arguments: Any) -> None:
    original = Session.run

    def run(session: Session, slide: Path, out: Path) -> Any:
        if slide.stem == os.environ["SLIDESCAN_TEST_CRASH"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        return original(session, slide, out)

    Session.run = run  # type: ignore[method-assign]
    jobs._work(*arguments)
