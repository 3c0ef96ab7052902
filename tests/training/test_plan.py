"""`slidescan plan`: what a network would be, counted by hand where it is counted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import networks
import pytest
import yaml
from commands import ran, refused, run

from slidescan.networks import operations
from slidescan.networks.plan import MobilePlan, Plan
from slidescan.scanning import selftest


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "SECONDS", 0.0)


def config(folder: Path, plan: Plan) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"plan": plan.model_dump(mode="json")}))
    return path


def told(*arguments: object) -> dict[str, str]:
    lines = ran("plan", *arguments, "--threads", 1).stdout.splitlines()
    return dict(re.split(" +", line, maxsplit=1) for line in lines)


def test_a_cell_and_a_patch_are_counted() -> None:
    made = networks.network(networks.plain("4/2 3", filters=8)).float()
    first, second, classifier = 8 * 16 * 3, 8 * 9 * 8, 2 * 8
    # The field of 8 px is centred: a crop leaves 8 of the 96 px, so 3 and 1 outputs of the layers.
    assert operations.per_patch(made) == 2 * (9 * first + second + classifier)
    assert operations.per_cell(made) == 2 * (first + second + classifier)


def test_a_pool_makes_cells_coarser() -> None:
    made = networks.network(networks.plain("4/2 3 2/2p", filters=8)).float()
    first, second, classifier = 8 * 16 * 3, 8 * 9 * 8, 2 * 8
    assert operations.per_cell(made) == 2 * (4 * (first + second) + classifier)


def test_a_padded_network_has_no_cells() -> None:
    made = networks.network(MobilePlan(arch="nasnet-mobile")).float()
    with pytest.raises(ValueError, match="nasnet-mobile pads with zeros"):
        operations.per_cell(made)


def test_a_plan_is_described(tmp_path: Path) -> None:
    plan = networks.plan("4/2 3 4/2", "R", "max", 2, filters=2, dense=4)
    made = networks.network(plan).float()
    lines = told(config(tmp_path, plan))
    assert lines["network"] == "nasnet-a, dense layers: 3, NASNet cells: 1, head: max of 2 x 2"
    seen = 96 - 2 * made.crop.cells
    assert lines["field"] == f"{seen} px, centred in 96 px"
    assert lines["margin"] == f"{seen // 2 - 1} of 47 px on each side"
    assert lines["stride"] == "8 px between cells"
    assert lines["parameters"] == f"{sum(p.numel() for p in made.parameters()):,}"
    assert lines["operations"].startswith(f"{operations.per_cell(made) / 1e6:.2f} million a cell")
    assert re.fullmatch(
        r"\d+\.\d\d Mpx/s with random weights, \w+ on \w+ in fp32, 1 threads", lines["speed"]
    )


def test_a_setting_changes_it_and_a_padded_network_is_for_patches(tmp_path: Path) -> None:
    path = config(tmp_path, networks.plan("4/2 3 4/2", "R", filters=2))
    lines = told(path, "--set", "plan.head.pool=max")
    assert lines["network"].endswith("head: max of 1 x 1")
    path = config(tmp_path, MobilePlan(arch="nasnet-mobile"))
    lines = told(path)
    assert "patches alone" in lines["field"]
    assert "margin" not in lines
    assert "patches/s" in lines["speed"]


def test_a_plan_that_needs_more_than_a_patch_is_one_line(tmp_path: Path) -> None:
    path = config(tmp_path, networks.plan("4/2", "R R R", filters=2))
    refused(run("plan", path), "needs a margin of", "take fewer cells")
    refused(run("plan", tmp_path / "none.yaml"), "none.yaml")
    refused(run("plan", path, "--set", "plan.cells.0.filters=0"), "plan.cells.0.filters")


def test_a_mistyped_file_is_refused_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "slidescan.networks.network", None)
    refused(run("plan", tmp_path / "none.yaml"), "none.yaml")
