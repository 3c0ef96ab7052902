"""`slidescan view` in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving_process(
    *arguments: object, errors: Path
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`slidescan view` in a process; its address, and the process, which has ended at the end."""
    command = [sys.executable, "-m", "slidescan", "view", *map(str, arguments)]
    with errors.open("w") as log:
        process = subprocess.Popen(
            [*command, "--no-browser", "--port", "0"], stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/\n", line)
        assert found, errors.read_text()
        yield found[1], process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
