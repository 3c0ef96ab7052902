"""Builds the viewer's page when a wheel is built, or the checkout is installed as editable."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VIEWER = Path("slidescan", "viewer")
NEEDED = "index.html", "page.js", "page.css", "licences.txt"


class PageError(Exception):
    """The page cannot be built; the message is one line."""


def build_page(root: Path) -> None:
    """Install what the lock file names and write the bundle to slidescan/viewer/static.

    Raises:
        PageError: there is no npm, or it failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise PageError("the viewer's page needs npm (Node.js 20 or newer); install it")
    page = root / VIEWER / "page"
    for command in ("ci", "--no-progress"), ("run", "build"):
        done = subprocess.run([npm, *command], cwd=page, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            reason = " ".join(said[-1:])
            raise PageError(f"the viewer's page: npm {' '.join(command)} failed: {reason}")
    missing = [name for name in NEEDED if not (root / VIEWER / "static" / name).is_file()]
    if missing:
        raise PageError(f"the viewer's page was built without {', '.join(missing)}")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """A wheel holds the page; an editable install does without it where it cannot be built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page before hatchling collects the files."""
        try:
            build_page(Path(self.root))
        except PageError as error:
            if version != "editable":
                sys.exit(f"slidescan: {error}")
            print(f"slidescan: {error}. Everything but `slidescan view` works.", file=sys.stderr)
