"""Builds the viewer's page when a wheel is built, or the checkout is installed as editable.

A wheel gets a software bill of materials as well (PEP 770, CycloneDX 1.6).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
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
        raise PageError(
            "the viewer's page needs npm (Node.js 20 or newer); install it, or do without "
            "slidescan view: pip install -e"
        )
    page = root / VIEWER / "page"
    for command in ("ci", "--no-progress"), ("run", "build"):
        done = subprocess.run(
            [npm, *command], cwd=page, capture_output=True, encoding="utf-8", errors="replace"
        )
        if done.returncode:
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            reason = " ".join(said[-1:])
            raise PageError(f"the viewer's page: npm {' '.join(command)} failed: {reason}")
    missing = [name for name in NEEDED if not (root / VIEWER / "static" / name).is_file()]
    if missing:
        raise PageError(f"the viewer's page was built without {', '.join(missing)}")


def bill_of_materials(root: Path) -> dict[str, Any]:
    """What a wheel holds and needs, with no time or place in it, so that two builds are equal.

    The shipped weights and the libraries in the viewer's page are required; libraries that pip
    installs are there with the versions that the tests passed with.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = dict(
        re.findall(
            r"^([\w.-]+)==(\S+)$", (root / "constraints.txt").read_text(encoding="utf-8"), re.M
        )
    )
    extras = project["optional-dependencies"]
    needed = {_name(each): "required" for each in project["dependencies"]}
    for extra in sorted(extras.keys() - {"dev"}):
        needed = {_name(each): "optional" for each in extras[extra]} | needed
    lock = json.loads((root / VIEWER / "page" / "package-lock.json").read_text(encoding="utf-8"))
    bundled = {
        place.removeprefix("node_modules/"): about["version"]
        for place, about in lock["packages"].items()
        if place and not about.get("dev")
    }
    weights = sorted((root / "slidescan" / "models" / "weights").glob("*.safetensors"))
    component = {"type": "application", "name": project["name"], "version": project["version"]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component | {"licenses": [{"expression": project["license"]}]}},
        "components": [
            *(
                {
                    "type": "machine-learning-model",
                    "name": path.name,
                    "hashes": [
                        {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}
                    ],
                }
                for path in weights
            ),
            *(_library("npm", name, each, "required") for name, each in sorted(bundled.items())),
            *(
                _library("pypi", name, pinned.get(name), scope)
                for name, scope in sorted(needed.items())
            ),
        ],
    }


def _name(requirement: str) -> str:
    """The name in a requirement, as "scikit-image" in "scikit-image>=0.25"."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _library(kind: str, name: str, version: str | None, scope: str) -> dict[str, Any]:
    known = {"version": version} if version else {}
    place = f"pkg:{kind}/{name.replace('@', '%40')}" + (f"@{version}" if version else "")
    return {"type": "library", "name": name, "purl": place, "scope": scope} | known


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """A wheel holds the page; an editable install does without it where it cannot be built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page before hatchling collects the files."""
        try:
            build_page(Path(self.root))
        except PageError as error:
            if version != "editable":
                sys.exit(f"slidescan: {error}")
            print(f"slidescan: {error}", file=sys.stderr)
        if version != "editable":
            bill = Path(self.directory, "slidescan.cdx.json")
            bill.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(bill_of_materials(Path(self.root)), indent=2) + "\n"
            bill.write_text(content, encoding="utf-8", newline="\n")
            build_data["sbom_files"].append(str(bill))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the bill, which the wheel now holds."""
        Path(self.directory, "slidescan.cdx.json").unlink(missing_ok=True)
