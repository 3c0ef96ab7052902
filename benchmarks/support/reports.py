"""Machine and date of a benchmark, its tables, and its figures as JSON."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click

from slidescan.tools.atomic_files import replacing, writing
from slidescan.tools.hardware import cores


def about() -> dict[str, str]:
    """The machine and the date."""
    return {
        "machine": f"{platform.machine()}, {cores()} cores",
        "date": date.today().isoformat(),
    }


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def keep(path: Path, result: Mapping[str, Any]) -> None:
    """Write JSON and create its folder. NaN and infinity become null, as JSON has neither."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(json.dumps(_plain(result), indent=2) + "\n")


def tell(result: Mapping[str, Any], out: Path | None = None) -> None:
    """Print JSON, and write it to `out` if that is given."""
    if out:
        keep(out, result)
    click.echo(json.dumps(_plain(result), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
