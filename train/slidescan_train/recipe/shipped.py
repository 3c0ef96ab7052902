"""The configurations that come with slidescan, by name."""

from __future__ import annotations

from pathlib import Path

from slidescan.errors import ConfigError
from slidescan.tools.spelling import suggestion

DEFAULT = "pcam"
"""The configuration whose values are the defaults."""


def names() -> list[str]:
    """List the shipped configurations, the default first."""
    found = (path.stem for path in _folder().glob("*.yaml"))
    return sorted(found, key=lambda name: (name != DEFAULT, name))


def locate(source: Path) -> Path:
    """Find the file of a shipped configuration's name; a path to a file stays as it is.

    Raises:
        ConfigError: neither a file nor a name.
    """
    if source.is_file():
        return source
    if source.name == str(source) and source.stem in names() and source.suffix in ("", ".yaml"):
        return _folder() / f"{source.stem}.yaml"
    if source.is_dir():
        raise ConfigError(f"{source}: is a folder; name a YAML file or a shipped configuration")
    raise ConfigError(
        f"{source}: no such configuration; {suggestion(source.stem, names())} (slidescan configs "
        "lists them)"
    )


def summary(name: str) -> str:
    """Return what a shipped configuration is for: its first comment."""
    return read(name).partition("\n")[0].lstrip("# ")


def read(name: str) -> str:
    """Return a shipped configuration as it is written, with its comments."""
    return locate(Path(name)).read_text(encoding="utf-8")


def _folder() -> Path:
    """In a wheel the package has a copy; a checkout and an editable install have one at the top."""
    copied = Path(__file__).parents[1] / "configs"
    return copied if copied.is_dir() else Path(__file__).parents[3] / "configs"
