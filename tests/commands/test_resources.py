"""What the machine lacks is said in one line, and blamed on no file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import slides
from commands import ran, refused, run
from maps import ONE, write_map

from slidescan.maps.finished import open_finished
from slidescan.maps.layout import Arrays
from slidescan.patches import decoding
from slidescan.tools import regular_files

OpenCVError = type("error", (Exception,), {"__module__": "cv2"})
"""cv2.error; OpenCV is a library of training."""


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    slides.write_slide(tmp_path / "slide.tif", slides.section(64, 80), mpp=0.972)
    values = np.full((8, 10), 0.5, np.float32)
    return write_map(tmp_path / "map.zarr", tmp_path / "slide.tif", values)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        ImportError("libpng.so: failed to map segment from shared object"),
        OpenCVError("(-4:Insufficient memory) Failed to allocate 110592 bytes"),
    ],
)
def test_too_little_memory_damages_no_map(
    error: Exception, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that is called damaged would be scanned again."""
    export = ("export", "csv", finished, "--out", tmp_path / "a.csv")
    real = Arrays.open

    def fail(self: Arrays, name: str) -> object:
        if name == "0":
            raise error
        return real(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Arrays, "open", fail)
        refused(run(*export), "out of memory")
    with monkeypatch.context() as patch:
        patch.setattr("zarr.Array.__getitem__", raising(error))
        refused(run(*export), "map.zarr", "cannot be read", "out of memory")
    assert open_finished(finished).complete


def raising(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def test_another_runtime_error_keeps_its_traceback(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Arrays, "open", raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        run("export", "csv", finished, "--out", tmp_path / "a.csv")


def test_too_few_handles_are_no_fault_of_a_patch(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "a.png").write_bytes(b"not opened")
    error = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(decoding, "read_regular", raising(error))
    command = ("predict", patches, "--model", tiny_model, *ONE, "--out", tmp_path / "a.csv")
    refused(run(*command), "Too many open files", "ulimit -n")


def test_a_small_file_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`read(n)` asks for n bytes, whatever the size of the file."""
    path, asked = tmp_path / "a", []
    path.write_bytes(b"abc")
    real = regular_files.open_regular

    class Watched:
        def __init__(self, file: object) -> None:
            self.file = file

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def fileno(self) -> int:
            return int(self.file.fileno())  # type: ignore[attr-defined]

        def read(self, count: int) -> bytes:
            asked.append(count)
            return bytes(self.file.read(count))  # type: ignore[attr-defined]

    monkeypatch.setattr(regular_files, "open_regular", lambda path: Watched(real(path)))
    assert regular_files.read_regular(path, 2**30) == b"abc"
    assert asked == [3]


@pytest.mark.parametrize("precision", ["auto", "int8", "bf16"])
def test_a_limit_of_kernels_is_obeyed_or_told(
    precision: str, finished: Path, tmp_path: Path
) -> None:
    """OpenVINO obeys the limit, names arithmetic above it and loads no graph made without it."""
    out = tmp_path / "again.zarr"
    slide, options = finished.with_name("slide.tif"), ("--model", "fast", "--overwrite")
    command = ["heatmap", slide, "--out", out, "--precision", precision, *options]
    ran(*command)  # its graph is cached
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    words = [sys.executable, "-m", "slidescan", *map(str, command)]
    done = subprocess.run(words, env=limited, capture_output=True, text=True)
    if done.returncode:
        assert precision == "bf16"
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: OpenVINO cannot compile the network in bf16")
        assert line.endswith("use --precision fp32, or --engine torch")
    else:
        assert open_finished(out).complete
