"""`slidescan regions`, `Map.regions`, and what the exports refuse."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path

import models
import networks
import numpy as np
import pytest
from commands import ran, refused, run
from lesions import UM, Values, disc
from slide_study import write_map

import slidescan
from slidescan.commands.regions import SHOWN, command
from slidescan.exports.region_tables import COLUMNS
from slidescan.maps.regions import MIN_AREA_UM2, Rule
from slidescan.models.card import read_card
from slidescan.models.identity import identity_of


@pytest.fixture(scope="module")
def values() -> Values:
    values = np.full((120, 200), 0.05, np.float32)
    values[disc(values.shape, 40, 50, 20)] = 0.7
    values[disc(values.shape, 40, 50, 5)] = 0.95
    values[disc(values.shape, 80, 150, 8)] = 0.8
    values[100:102, 20:22] = 0.99
    return values


@pytest.fixture(scope="module")
def map_path(tmp_path_factory: pytest.TempPathFactory, values: Values) -> Path:
    return write_map(tmp_path_factory.mktemp("regions") / "map.zarr", values)


def test_the_table_the_csv_the_json_and_the_api_agree(map_path: Path, tmp_path: Path) -> None:
    shown = ran("regions", map_path, "--out", tmp_path / "regions.csv").stdout
    ran("regions", map_path, "--out", tmp_path / "regions.json")

    with (tmp_path / "regions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    written = json.loads((tmp_path / "regions.json").read_text())
    assert written["rule"] == {"threshold": 0.5, "low": None, "min_area_um2": 900.0}
    assert written["scanned_share"] == 1
    assert [{k: str(v) for k, v in each.items()} for each in written["regions"]] == rows
    found = slidescan.open_map(map_path).regions()
    assert [each.area_um2 for each in found] == [float(row["area_um2"]) for row in rows]
    assert found[0].centroid_l0 == (50.5 * 15, 40.5 * 30)
    assert rows[0]["centroid_x_um"] == str(round(50.5 * UM, 2))
    first = shown.splitlines()[1].split()
    assert first[:2] + first[4:] == ["1", "micro", "0.950", "0.716", "0.950", "758", "1215"]
    assert "2 regions of 900 um2 or more from P(tumour) 0.5 up: 0 macro, 1 micro, 1 itc" in shown
    assert "15 um beyond tumour" in shown  # 16 px of 0.9375 um


def test_hysteresis_and_the_smallest_area(map_path: Path) -> None:
    assert "2 regions" in ran("regions", map_path, "--threshold", 0.9, "--min-area", 0).stdout
    found = slidescan.open_map(map_path).regions(0.9, 0.5)
    assert len(found) == 1
    assert found[0].area_um2 == disc((120, 200), 40, 50, 20).sum() * UM**2


def test_many_regions_are_not_all_printed(tmp_path: Path) -> None:
    values = np.full((60, 60), 0.1, np.float32)
    values[::10, ::10] = 0.9
    path = write_map(tmp_path / "map.zarr", values)
    result = ran("regions", path, "--min-area", 0, "--out", tmp_path / "all.csv")
    assert f"... and {36 - SHOWN} more" in result.stdout
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 37


def test_nothing_above_the_threshold_is_an_empty_table(map_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "none.csv"
    result = ran("regions", map_path, "--threshold", 0.999, "--out", out)
    assert "no regions of 900 um2 or more" in result.stdout
    assert out.read_text().strip() == ",".join(COLUMNS)


def test_an_operating_point_is_looked_up(tmp_path: Path, values: Values) -> None:
    network = networks.network(networks.plan("4/2 3", "R N R", filters=2)).float()
    model = models.save(tmp_path / "model.safetensors", network, operating=models.OPERATING)
    card = read_card(str(model))
    path = write_map(tmp_path / "map.zarr", values, model=identity_of(card))
    assert card.operating
    threshold = card.operating.points["sens95"].threshold

    result = ran("regions", path, "--threshold", "sens95", "--model", model)

    assert f"threshold sens95 of the maps' model: {threshold:.4g}" in result.stdout
    found = slidescan.open_map(path)
    by_name = found.regions("sens95", model=model)
    assert by_name == found.regions(threshold) != []
    refused(run("regions", path, "--threshold", 0.5, "--model", model), "--model", "named")


def test_an_unfinished_map_needs_partial(tmp_path: Path, values: Values) -> None:
    wide = np.tile(values, (1, 2))
    path = write_map(tmp_path / "map.zarr", wide, blocks=1)
    refused(run("regions", path), "has not finished (64.0%", "--partial")
    result = ran("regions", path, "--partial", "--out", tmp_path / "regions.json")
    assert "64.0%" in result.stderr
    assert json.loads((tmp_path / "regions.json").read_text())["scanned_share"] == 0.64


def test_an_existing_file_is_kept(map_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "regions.csv"
    out.write_text("precious")
    refused(run("regions", map_path, "--out", out), "regions.csv", "exists", "--overwrite")
    assert out.read_text() == "precious"
    ran("regions", map_path, "--out", out, "--overwrite")
    assert out.read_text().startswith("region,")


def test_wrong_arguments_are_refused(map_path: Path, tmp_path: Path) -> None:
    refused(run("regions", tmp_path / "none.zarr"), "not a slidescan map")
    refused(run("regions", map_path, "--out", tmp_path / "a.txt"), ".csv or .json", "a.csv")
    refused(run("regions", map_path, "--out", tmp_path / "none" / "a.csv"), "no folder")
    refused(run("regions", map_path, "--low", 0.8), "low threshold 0.8", "0.5")
    for wrong in (0, 1.5, "nan", "sens80"):
        assert run("regions", map_path, "--threshold", wrong).exit_code == 2


def test_the_smallest_area_has_one_default() -> None:
    (option,) = [each for each in command.params if each.name == "min_area"]
    signature = inspect.signature(slidescan.Map.regions)
    assert option.default == Rule(0.5).min_area_um2 == MIN_AREA_UM2
    assert signature.parameters["min_area_um2"].default == MIN_AREA_UM2
