"""Standard streams that are closed or full, and messages that are long or hold escapes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused, run

from slidescan.commands.terminal import warn
from slidescan.errors import MOST_CHARACTERS, DataError, one_line

FULL = Path("/dev/full")
MODELS = (sys.executable, "-m", "slidescan", "models")


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux' /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_one_line(unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with FULL.open("w") as full:
        done = subprocess.run(MODELS, stdout=full, stderr=subprocess.PIPE, env=environment)
    line = b"Error: standard output cannot be written (No space left on device); make room or"
    assert done.stderr.startswith(line)
    assert done.stderr.count(b"\n") == 1
    assert done.returncode == 1


def test_what_is_closed_is_opened_on_the_null_device(tmp_path: Path) -> None:
    """Without that, the first file that is opened would get what libraries print on stderr."""
    code = "\n".join(
        (
            "import os",
            "for number in (0, 1, 2): os.close(number)",
            "from slidescan.cli import main",
            "main(['--version'], standalone_mode=False)",
            f"assert os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY) > 2",
            f"open({str(tmp_path / 'passed')!r}, 'w').close()",
        )
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert (tmp_path / "passed").exists()


def test_a_warning_that_nobody_can_read_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from slidescan.commands.terminal import warn\nwarn('one')\nwarn('two')\nprint('alive')"
    with os.fdopen(writing, "w") as broken:
        done = subprocess.run([sys.executable, "-c", code], stderr=broken, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"alive\n")


def test_messages_are_cut_and_printable(capsys: pytest.CaptureFixture[str]) -> None:
    told = str(DataError(f"{'x' * 100_000}: wrong; correct it"))
    assert len(told) <= MOST_CHARACTERS
    assert told.endswith("; correct it")
    assert one_line("\x1b]0;owned\x07 \udcff\n\tend") == r"\x1b]0;owned\x07 \udcff end"
    warn("id \x1b[2J" + "y" * 100_000)
    printed = capsys.readouterr().err
    assert printed.startswith(r"Warning: id \x1b[2Jyyy")
    assert len(printed) < MOST_CHARACTERS + 20


def test_ids_of_a_table_are_escaped(tmp_path: Path) -> None:
    like, folder = tmp_path / "like.csv", tmp_path / "patches"
    folder.mkdir()
    (folder / "a.png").touch()
    like.write_text("id,label\n\x1b[31mred,0\n")
    result = run("predict", folder, "--like", like, "--out", tmp_path / "table.csv")
    refused(result, like, r"\x1b[31mred")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux' /proc")
def test_a_folder_that_takes_no_files_is_not_called_locked(section: Path, tiny_model: Path) -> None:
    result = run("heatmap", section, "--model", tiny_model, "--out", "/proc/x.zarr")
    refused(result, "/proc/x.zarr", "cannot be written (No such file or directory)")
