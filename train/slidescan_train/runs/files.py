"""The files of a run's folder, and whether a run may begin in one."""

from __future__ import annotations

from pathlib import Path

from slidescan.errors import WriteError
from slidescan.tools.atomic_files import check_folder, writing

CONFIG, CHECKPOINT = "config.yaml", "checkpoint.safetensors"
BEST, LAST = "best.safetensors", "last.safetensors"
SPLIT = "split.csv"


def check_out(out: Path, resume: bool) -> None:
    """Make the folder that `out` is to be in.

    Raises:
        WriteError: it cannot be made, or `out` holds a run that is not to be resumed.
    """
    with writing(out):
        out.parent.mkdir(exist_ok=True)
    check_folder(out)
    if out.exists() and not out.is_dir():
        raise WriteError(f"{out}: is a file; choose a folder with --out")
    if (out / CHECKPOINT).exists() and not resume:
        raise WriteError(
            f"{out}: holds another run; resume it with --resume, or choose another --out"
        )
