"""Weights and card: what belongs together loads, everything else is refused in one line."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from slidescan.engines.backend import Backend
from slidescan.engines.build import make_engine
from slidescan.errors import ModelError, WriteError
from slidescan.evaluation.calibration_fit import apply
from slidescan.geometry import PATCH_PX
from slidescan.models import model
from slidescan.models.ancestors import Ancestor, Published
from slidescan.models.card import Card, shipped_names
from slidescan.models.model import load, save
from slidescan.networks.network import Network
from slidescan.networks.plan import Plan
from slidescan.patches.labelled.splits import in_validation

EARLIER = (
    *("name", "plan", "field_px", "stride_px", "mpp", "weights_sha256", "data", "split"),
    *("validation", "teacher", "calibration", "reproduce", "versions"),
)
"""Fields of a card of version 0.1.0 at first."""
ABOUT: dict[str, Any] = {
    "mpp": 0.972,
    "data": "noise",
    "split": "none",
    "validation": {"patches": 10, "auc": 0.5, "accuracy": 0.5, "nll": 0.7},
    "reproduce": "slidescan train",
    "versions": {"slidescan": "0.1.0"},
}
PLAN = networks.plan("4/2 3", "R N R", filters=2)


def network(plan: Plan = PLAN, seed: int = 0) -> Network:
    return networks.network(plan, seed).float()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "seed.safetensors"
    save(path, network(), **ABOUT)
    return path


def edit(weights: Path, **changes: object) -> None:
    """Change fields of the card; None removes one."""
    path = weights.with_suffix(".json")
    card = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in card.items() if v is not None}))


def replace_weights(weights: Path, content: bytes) -> None:
    """Other content, with a card that vouches for it."""
    weights.write_bytes(content)
    edit(weights, weights_sha256=hashlib.sha256(content).hexdigest())


def refused(source: Path | str, *parts: str) -> None:
    with pytest.raises(ModelError) as error:
        _ = load(str(source)).network
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# --- what belongs together ------------------------------------------------------------------


def test_a_saved_network_gives_the_same_numbers_to_the_bit(saved: Path) -> None:
    image = networks.image(120, 150).float()
    with torch.inference_mode():
        expected = network()(image)
        assert expected.std() > 0.01  # a network that says something
        for suffix in ".safetensors", ".json":
            loaded = load(str(saved.with_suffix(suffix)))
            assert torch.equal(loaded.network(image), expected)


def test_a_network_in_channels_last_and_in_training_is_saved_as_any_other(tmp_path: Path) -> None:
    moved = network().train()
    moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    card = save(tmp_path / "a.safetensors", moved, **ABOUT)
    assert (
        card.weights_sha256 == save(tmp_path / "b.safetensors", network(), **ABOUT).weights_sha256
    )
    assert moved.training


def test_a_loaded_network_is_for_inference(saved: Path) -> None:
    loaded = load(str(saved)).network
    assert not any(m.training for m in loaded.modules())
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_card_tells_what_the_network_is(saved: Path) -> None:
    card = load(str(saved)).card
    assert (card.name, card.plan) == ("seed", PLAN)
    assert (card.field_px, card.stride_px, card.mpp) == (96, 8, 0.972)
    assert card.weights_sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    told = card.model_dump(exclude_none=True)
    assert {k: v for k, v in told.items() if k in ABOUT} == ABOUT
    assert card.parameters == sum(p.numel() for p in network().parameters())


def test_a_card_of_an_earlier_version_loads(saved: Path) -> None:
    new = set(Card.model_fields) - set(EARLIER)
    edit(saved, teacher="last, SHA-256 0123", **dict.fromkeys(new))
    card = json.loads(saved.with_suffix(".json").read_text())
    card["validation"] = ABOUT["validation"]
    del card["ancestors"]
    saved.with_suffix(".json").write_text(json.dumps(card))
    assert set(card) <= set(EARLIER)

    loaded = load(str(saved))
    assert loaded.card.teachers == ("last, SHA-256 0123",)
    assert loaded.card.held_out_sha256 is loaded.card.parameters is loaded.card.start is None
    assert loaded.ancestor.teachers == ("last, SHA-256 0123",)


def test_a_card_keeps_the_whole_chain(saved: Path) -> None:
    public = Published(published="package 1.0", sha256="1" * 64)
    oldest = Ancestor(name="oldest", sha256="2" * 64, held_out_sha256="3" * 64, start=public)
    other = Ancestor(name="other", sha256="5" * 64, start=public)
    middle = Ancestor(name="middle", sha256="4" * 64, teachers=(oldest, other), start=oldest)
    save(saved, network(), **ABOUT, teachers=[middle, oldest], start=public)
    loaded = load(str(saved))

    assert (loaded.card.teachers, loaded.card.start) == ((middle, oldest), public)
    assert loaded.ancestor.teachers == (middle, oldest)
    assert loaded.ancestor.name == "seed"
    assert loaded.ancestor.sha256 == loaded.card.weights_sha256
    edit(saved, teachers=[{"name": "no digest"}])
    refused(saved, "not a valid model card", "sha256 is missing")


def test_saving_leaves_two_files_and_no_other(saved: Path) -> None:
    save(saved, network(seed=1), **ABOUT)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["seed.json", "seed.safetensors"]
    with torch.inference_mode():
        image = networks.image(96, 96).float()
        assert torch.equal(load(str(saved)).network(image), network(seed=1)(image))


# --- what does not ---------------------------------------------------------------------------


def test_a_missing_card(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    refused(saved, f"no model card {saved.with_suffix('.json')}", "copy the .json")


def test_a_misspelt_model_gets_a_suggestion() -> None:
    shipped = f"(shipped: {', '.join(shipped_names())};"
    refused("defualt", "defualt: no model of this name; did you mean default?", shipped)


def test_missing_weights(saved: Path) -> None:
    saved.unlink()
    refused(saved, f"{saved}: no such file, but its card exists")


def test_folders_in_place_of_files(saved: Path) -> None:
    card = saved.with_suffix(".json")
    saved.unlink()
    saved.mkdir()
    refused(saved, f"{saved}: cannot be read: Is a directory")
    card.unlink()
    card.mkdir()
    refused(saved, f"{card}: cannot be read: Is a directory")


def test_weights_with_another_hash_than_their_card_s(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    refused(saved, "SHA-256", "is not its card's", "copy both again")


def test_truncated_weights(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-10])
    refused(saved, "is not its card's")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff" * len(content),
        lambda content: content[:8] + b"}" + content[9:],
        lambda content: content + b"\0",
    ],
)
def test_corrupt_weights_that_the_card_vouches_for(
    saved: Path, spoil: Callable[[bytes], bytes]
) -> None:
    replace_weights(saved, spoil(saved.read_bytes()))
    refused(saved, f"{saved}: cannot be loaded")


def test_a_pickle_is_never_loaded(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    torch.save(network().state_dict(), content)
    replace_weights(saved, content.getvalue())
    for loader in (torch, "load"), (torch.serialization, "load"):
        monkeypatch.setattr(*loader, lambda *_, **__: pytest.fail("a pickle was loaded"))
    refused(saved, f"{saved}: cannot be loaded")
    pickle = saved.with_suffix(".pt")
    refused(pickle, "no model of this name", ".safetensors file")
    pickle.write_bytes(content.getvalue())
    refused(pickle, "not a model", ".safetensors")


@pytest.mark.parametrize(
    "other",
    [
        networks.plan("4/2 3", "R N R", filters=3),
        networks.plan("4/2 3", "R N N", filters=2),
        networks.plan("4/2 3", "R R", filters=2),
        networks.plan("4/2 5", "R N R", filters=2),
    ],
    ids=["filters", "kind", "cells", "kernel"],
)
def test_weights_of_another_architecture(saved: Path, other: Plan) -> None:
    state = network(other).state_dict()
    replace_weights(saved, safetensors.torch.save(state))
    refused(saved, f"{saved}: the weights do not fit the plan of their card")


def test_a_plan_that_does_not_fit_a_patch(saved: Path) -> None:
    edit(saved, plan=networks.plan("4/2", "R R R", filters=2).model_dump(mode="json"))
    refused(saved, "cannot be loaded", "needs a margin of")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"mpp": -1}, ("mpp = -1", "equal to 0.05")),
        ({"mpp": "fine"}, ("mpp = 'fine'", "valid number")),
        ({"colour": "red"}, ("unknown key colour",)),
        ({"weights_sha256": None}, ("weights_sha256 is missing",)),
        ({"validation": {"patches": 1}}, ("validation.auc is missing",)),
        ({"plan": {"stem": [], "cells": [{"kind": "odd"}]}}, ("plan.cells.0.kind = 'odd'",)),
    ],
)
def test_a_wrong_field_of_the_card(
    saved: Path, changes: dict[str, object], parts: tuple[str, ...]
) -> None:
    edit(saved, **changes)
    refused(saved, f"{saved.with_suffix('.json')}: not a valid model card", *parts)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"name: seed"], ids=["", "{", "[]", "bytes", "yaml"]
)
def test_a_card_that_is_no_json_object(saved: Path, content: bytes) -> None:
    saved.with_suffix(".json").write_bytes(content)
    refused(saved, f"{saved.with_suffix('.json')}: not a valid model card")


def test_a_card_that_contradicts_its_plan(saved: Path) -> None:
    edit(saved, stride_px=4)
    refused(saved, "says field 96 px and stride 4 px, its plan gives 96 and 8")
    edit(saved, stride_px=8, field_px=95)
    refused(saved, "says field 95 px and stride 8 px")


# --- saving ----------------------------------------------------------------------------------


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="there is no folder"):
        save(tmp_path / "none" / "a.safetensors", network(), **ABOUT)


@pytest.mark.parametrize("step", [0, 1], ids=["first file", "second file"])
def test_a_disk_full_while_saving_leaves_the_previous_model(
    saved: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in saved.parent.iterdir()}
    write, calls = Path.write_bytes, iter(range(2))

    def full(self: Path, data: bytes) -> int:
        if next(calls) == step:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match="disk full"):
        save(saved, network(seed=1), **ABOUT)
    assert {p.name: p.read_bytes() for p in saved.parent.iterdir()} == before


def test_both_files_are_written_before_either_is_replaced(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    write, replace = Path.write_bytes, Path.replace

    def logged_write(self: Path, data: bytes) -> int:
        order.append(f"write {self.suffix}")
        return write(self, data)

    def logged_replace(self: Path, target: Path) -> Path:
        order.append(f"replace {self.suffix}")
        return replace(self, target)

    monkeypatch.setattr(Path, "write_bytes", logged_write)
    monkeypatch.setattr(Path, "replace", logged_replace)
    save(saved, network(seed=1), **ABOUT)
    assert order[2:] == ["replace .safetensors", "replace .json"]
    assert sorted(order[:2]) == ["write .json", "write .safetensors"]


# --- the shipped weights ---------------------------------------------------------------------

SHIPPED = model.shipped(model.DEFAULT)
needs_weights = pytest.mark.skipif(not SHIPPED.exists(), reason="no weights in this checkout yet")


@needs_weights
def test_the_shipped_model_loads_by_its_name_and_from_a_copy(tmp_path: Path) -> None:
    loaded = load(model.DEFAULT)
    for suffix in ".json", ".safetensors":
        shutil.copy(SHIPPED.with_suffix(suffix), tmp_path)
    copy = load(str(tmp_path / SHIPPED.name))

    assert copy.card == loaded.card
    assert (loaded.card.name, loaded.card.field_px, loaded.card.stride_px) == ("default", 96, 8)
    assert loaded.card.mpp == 0.972


def patches(
    labels: Path, pack: Path, suffix: str, which: Callable[[str], bool]
) -> tuple[list[str], NDArray[np.uint8], NDArray[np.int64]]:
    """Ids, pixels (N, 96, 96, 3) and labels of patches in a zip file."""
    with labels.open() as file:
        truth = {r["id"]: int(r["label"]) for r in csv.DictReader(file) if which(r["id"])}
    pixels = np.empty((len(truth), PATCH_PX, PATCH_PX, 3), np.uint8)
    with zipfile.ZipFile(pack) as content:
        for row, name in enumerate(truth):
            with Image.open(io.BytesIO(content.read(f"{name}{suffix}"))) as image:
                pixels[row] = np.asarray(image.convert("RGB"))
    return list(truth), pixels, np.array(list(truth.values()))


@pytest.mark.slow
@needs_weights
def test_the_shipped_card_tells_the_truth_about_its_scores(real_data: Path) -> None:
    kaggle, official = real_data / "pcam", real_data / "pcam_official"
    ids, of_kaggle, labels = patches(
        kaggle / "train_labels.csv", kaggle / "patches.zip", ".webp", in_validation
    )
    for name, patch in zip(ids, of_kaggle, strict=True):
        assert hashlib.sha1(patch.tobytes()).hexdigest() == name  # as Kaggle names it
    _, others, more = patches(
        official / "train_labels.csv", official / "train.zip", ".jpg", in_validation
    )
    _, of_other_slides, truth = patches(
        official / "valid_labels.csv", official / "valid.zip", ".jpg", lambda _: True
    )
    sets = [
        (of_other_slides, truth),
        (np.concatenate([of_kaggle, others]), np.concatenate([labels, more])),
    ]

    shipped = load(model.DEFAULT)
    engine = make_engine(shipped.network, Backend("openvino", "cpu", "fp32", 2))
    # The card's scores are those before calibration, whose 0.5 is another probability after it.
    assert shipped.card.calibration is not None
    half = expit(apply(shipped.card.calibration, np.zeros(1)))[0]
    for told, (pixels, expected) in zip(shipped.card.validation_sets or (), sets, strict=True):
        scores = np.concatenate([engine(part)[:, 0, 0] for part in np.array_split(pixels, 40)])
        assert told.patches == len(pixels)
        assert roc_auc_score(expected, scores) == pytest.approx(told.scores.auc, abs=0.002)
        accuracy = np.mean((scores >= half) == expected)
        assert accuracy == pytest.approx(told.scores.accuracy, abs=0.003)
    assert shipped.card.validation.auc >= 0.90
