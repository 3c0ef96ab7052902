"""Models that cannot be loaded, in one line each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from commands import refused, run


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    folder = tmp_path / "model"
    folder.mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.copy(tiny_model.with_suffix(suffix), folder)
    return folder / tiny_model.name


def edit(card: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(card.read_text())
    change(content)
    card.write_text(json.dumps(content))


def pair(model: Path, content: bytes) -> None:
    """Other weights, and a card that says these are right."""
    model.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    edit(model.with_suffix(".json"), lambda card: card.update(weights_sha256=sha256))


def no_weights(model: Path) -> None:
    model.unlink()


def no_card(model: Path) -> None:
    model.with_suffix(".json").unlink()


def other_sha(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1] + b"\0")


def noise(model: Path) -> None:
    pair(model, bytes(range(256)) * 40)


def empty(model: Path) -> None:
    pair(model, b"")


def cut(model: Path) -> None:
    pair(model, model.read_bytes()[:-1000])


def other_plan(model: Path) -> None:
    def more(card: dict[str, Any]) -> None:
        card["plan"]["stem"][0]["filters"] = 5

    edit(model.with_suffix(".json"), more)


def too_deep(model: Path) -> None:
    edit(
        model.with_suffix(".json"), lambda card: card["plan"]["cells"].extend(card["plan"]["cells"])
    )


def other_stride(model: Path) -> None:
    edit(model.with_suffix(".json"), lambda card: card.update(stride_px=4))


def fewer_tensors(model: Path) -> None:
    state = safetensors.torch.load(model.read_bytes())
    # A certain one: torch does without BatchNorm's num_batches_tracked, as inference does.
    del state["body.stem.0.weight"]
    pair(model, safetensors.torch.save(state))


def not_json(model: Path) -> None:
    model.with_suffix(".json").write_bytes(b"\x80not json\n" * 10_000)


def json_cut(model: Path) -> None:
    card = model.with_suffix(".json")
    card.write_text(card.read_text()[:-20])


def unknown_key(model: Path) -> None:
    edit(model.with_suffix(".json"), lambda card: card.update(licence="none"))


def a_list(model: Path) -> None:
    model.with_suffix(".json").write_text(json.dumps(["card"] * 1000))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_weights, ["no such file", "card"]),
        (no_card, ["no model card", "copy the .json"]),
        (other_sha, ["SHA-256", "damaged"]),
        (noise, ["cannot be loaded"]),
        (empty, ["cannot be loaded"]),
        (cut, ["cannot be loaded"]),
        (other_plan, ["do not fit the plan"]),
        (too_deep, ["margin"]),
        (other_stride, ["stride 4 px", "8"]),
        (fewer_tensors, ["do not fit the plan"]),
        (not_json, ["not a valid model card"]),
        (json_cut, ["not a valid model card"]),
        (unknown_key, ["licence"]),
        (a_list, ["not a valid model card"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_models(
    spoil: Callable[[Path], None], words: list[str], model: Path, section: Path, tmp_path: Path
) -> None:
    spoil(model)
    out = tmp_path / "map.zarr"
    refused(run("heatmap", section, "--out", out, "--model", model), *words)
    assert not out.exists()


def test_an_unknown_model_names_the_shipped_ones(section: Path, tmp_path: Path) -> None:
    command = ("heatmap", section, "--out", tmp_path / "map.zarr", "--model", "resnet")
    refused(run(*command), "resnet", "default")


# --- hostile ones: bounded before anything is allocated for them


def many_filters(model: Path) -> None:
    def wide(card: dict[str, Any]) -> None:
        card["plan"]["stem"][0]["filters"] = 9 * 10**18

    edit(model.with_suffix(".json"), wide)


def large_network(model: Path) -> None:
    def wide(card: dict[str, Any]) -> None:
        for cell in card["plan"]["cells"]:
            cell["filters"] = 4096

    edit(model.with_suffix(".json"), wide)


def absurd_resolution(model: Path) -> None:
    edit(model.with_suffix(".json"), lambda card: card.update(mpp=1e300))


def many_knots(model: Path) -> None:
    knots = [[i, i] for i in range(100_000)]
    told = ("nll_before", "nll_after", "ece_before", "ece_after", "ece_cross_fitted")
    made = {"isotonic": knots, "fitted_on": "none", "patches": 1} | dict.fromkeys(told, 0)
    edit(model.with_suffix(".json"), lambda card: card.update(calibration=made))


def many_unknown_keys(model: Path) -> None:
    edit(model.with_suffix(".json"), lambda card: card.update({f"k{i}": i for i in range(10_000)}))


def deep(model: Path) -> None:
    model.with_suffix(".json").write_text("[" * 100_000 + "]" * 100_000)


def an_enormous_card(model: Path) -> None:
    with model.with_suffix(".json").open("r+b") as file:
        file.truncate(20 * 2**30)  # sparse


def a_pipe(model: Path) -> None:
    model.unlink()
    os.mkfifo(model)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (many_filters, ["plan.stem.0.filters = 9000000000000000000: expected less than or equal"]),
        (large_network, ["do not fit the plan of their card", "parameters, the file holds"]),
        (absurd_resolution, ["mpp = 1e+300"]),
        (many_knots, ["calibration.isotonic", "at most 1000 items"]),
        (many_unknown_keys, ["unknown key k0", "and 9,997 more"]),
        (deep, ["not a valid model card"]),
        (an_enormous_card, ["21,474,836,480 bytes", "4,194,304"]),
        (a_pipe, ["a pipe or a device"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_hostile_models(
    spoil: Callable[[Path], None], words: list[str], model: Path, section: Path, tmp_path: Path
) -> None:
    spoil(model)
    out = tmp_path / "map.zarr"
    arguments = ("heatmap", section, "--out", out, "--model", model, "--no-cache")
    refused(run(*arguments), *words)
    assert not out.exists()
