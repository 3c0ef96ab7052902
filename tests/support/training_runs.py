"""Commands of training, called in this process, and what their runs left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result
from learning import tiny
from slidescan_train.loop.history import Epoch, read

from slidescan.cli import main


def write_settings(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(tiny(**changes).model_dump(mode="json")))
    return path


def command(name: str, *args: object) -> Result:
    return CliRunner().invoke(main, [name, *map(str, args)])


def slidescan_train(*args: object) -> Result:
    return command("train", "--threads", 1, *args)


def failed(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    one_line(result.stderr, *parts)


def one_line(stderr: str, *parts: str) -> None:
    *_, last = lines = stderr.rstrip("\n").split("\n")
    assert last.startswith("Error: "), stderr
    assert "Traceback" not in stderr
    assert len(lines) == 1, stderr
    for part in parts:
        assert part in last


def scores(out: Path) -> list[tuple[float, ...]]:
    """Of each epoch, all that does not depend on the clock."""
    return [
        (e.training_loss, e.training_auc, e.validation_loss, e.validation_auc)
        for e in read(out / "metrics.csv", Epoch)
    ]
