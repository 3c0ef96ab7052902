"""Test-time augmentation and ensembles: exact means, alike in patches, tiles and maps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import slides
import torch
from commands import ran, refused, run
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from maps import read
from models import save
from numpy.typing import NDArray

from slidescan.engines.averaging import Averaged, Oriented, mean
from slidescan.engines.backend import Backend
from slidescan.engines.build import make_engine
from slidescan.engines.ensemble import Ensemble
from slidescan.errors import ModelError
from slidescan.maps.store import Heatmap
from slidescan.models import model
from slidescan.models.identity import same_models
from slidescan.networks.network import Network, probability
from slidescan.protocols import Engine
from slidescan.scanning import pipeline

TORCH = ("--engine", "torch", "--threads", "1")
Pixels = NDArray[np.uint8]

# Written out, not taken from the code: how an image may lie.
ORIENTATIONS: tuple[Callable[[Any], Any], ...] = (
    lambda image: image,
    lambda image: image[::-1],
    lambda image: image[:, ::-1],
    lambda image: image[::-1, ::-1],
    lambda image: image.swapaxes(0, 1),
    lambda image: image.swapaxes(0, 1)[::-1],
    lambda image: image.swapaxes(0, 1)[:, ::-1],
    lambda image: image.swapaxes(0, 1)[::-1, ::-1],
)
INVERSE = (0, 1, 2, 3, 4, 6, 5, 7)
"""Which orientation undoes each: quarter turns undo each other."""


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As tiny_model, other weights."""
    network = networks.network(networks.plan("4/2", "R N N R"), seed=1).float()
    return save(tmp_path_factory.mktemp("other") / "other.safetensors", network)


@pytest.fixture(scope="module")
def exact() -> tuple[Network, Engine]:
    """A float64 network, and an engine that rounds nothing."""
    network = networks.network(networks.plan("4/2", "R N N R"))

    def engine(pixels: Pixels) -> Any:
        x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).double()
        with torch.inference_mode():
            return probability(network(x)).numpy()

    return network, engine


# --- the mean ---------------------------------------------------------------------------------


@given(
    arrays.arrays(np.float32, (8, 2, 3), elements=st.floats(0, 1, width=32)),
    st.permutations(range(8)),
)
def test_a_mean_does_not_depend_on_the_order(values: Any, order: list[int]) -> None:
    found = mean(values)
    np.testing.assert_array_equal(mean(values[order]), found)
    np.testing.assert_allclose(found, values.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-9)
    assert found.dtype == np.float32


def test_nor_where_float64_itself_rounds() -> None:
    """Just above the middle of two float32, which smallest first alone finds out."""
    parts = [1, 2**-24, 2**-53, 2**-53, 0, 0, 0, 0]
    for order in parts, parts[::-1]:
        values = np.array(order, np.float32)[:, None, None]
        assert mean(values).item() == (1 + 2**-23) / 8


# --- the eight orientations -------------------------------------------------------------------


def test_the_tests_own_orientations() -> None:
    image = np.arange(6).reshape(2, 3)
    assert len({json.dumps(turn(image).tolist()) for turn in ORIENTATIONS}) == 8
    for turn, back in zip(ORIENTATIONS, INVERSE, strict=True):
        np.testing.assert_array_equal(ORIENTATIONS[back](turn(image)), image)


def test_d4_is_the_mean_over_the_orientations(exact: tuple[Network, Engine]) -> None:
    network, engine = exact
    pixels = slides.noise(128, 176)
    by_hand = np.mean(
        [
            ORIENTATIONS[back](engine(turn(pixels)[None])[0])
            for turn, back in zip(ORIENTATIONS, INVERSE, strict=True)
        ],
        axis=0,
    )
    found = Oriented(engine, network.field)(pixels[None])[0]
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-14)
    assert np.abs(found - engine(pixels[None])[0]).max() > 1e-3


@pytest.mark.parametrize("shape", [(96, 96), (101, 103), (131, 96), (120, 143)])
def test_d4_of_a_tile_is_d4_of_its_patches(
    shape: tuple[int, int], exact: tuple[Network, Engine]
) -> None:
    """Whatever the extent leaves over beyond the last field of view."""
    network, engine = exact
    oriented = Oriented(engine, network.field)
    tile = slides.noise(*shape)
    found = oriented(tile[None])[0]
    assert found.shape == tuple(network.field.outputs(n) for n in shape)
    for (y, x), value in np.ndenumerate(found):
        patch = tile[8 * y : 8 * y + 96, 8 * x : 8 * x + 96]
        assert abs(oriented(patch[None])[0, 0, 0] - value) < 1e-12


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_every_orientation_has_the_same_probability(name: Any, tiny_model: Path) -> None:
    network = model.load(str(tiny_model)).network
    engine = make_engine(network, Backend(name, "cpu", "fp32", 1))
    patch = slides.section(96, 96)
    each = np.stack([turn(patch) for turn in ORIENTATIONS])
    assert np.ptp(engine(each)) > 1e-3
    oriented = Oriented(engine, network.field)
    assert np.ptp(oriented(each)) <= 1e-6
    # Alone they are the same to the last bit, and so is a tile.
    assert len({oriented(one[None]).tobytes() for one in each}) == 1
    tile = slides.section(160, 224)
    found = oriented(tile[None])[0]
    for turn in ORIENTATIONS:
        np.testing.assert_array_equal(oriented(turn(tile)[None])[0], turn(found))


# --- ensembles --------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_its_models(tiny_model: Path, other_model: Path) -> None:
    pixels = slides.section(120, 160)[None]
    names = [str(tiny_model), str(other_model)]
    ensemble = Ensemble.load(names)
    found = ensemble.engine(Backend("torch", "cpu", "fp32", 1))(pixels)
    alone = [Ensemble.load([n]).engine(Backend("torch", "cpu", "fp32", 1))(pixels) for n in names]
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    np.testing.assert_allclose(found, (alone[0] + alone[1]) / 2, rtol=0, atol=1e-7)
    turned = Ensemble.load(names[::-1])
    assert turned.record() == ensemble.record()
    np.testing.assert_array_equal(turned.engine(Backend("torch", "cpu", "fp32", 1))(pixels), found)


def test_both_together(tiny_model: Path, other_model: Path) -> None:
    pixels = slides.section(120, 160)[None]
    names = [str(tiny_model), str(other_model)]
    found = Ensemble.load(names, "d4").engine(Backend("torch", "cpu", "fp32", 1))(pixels)
    members = [Ensemble.load([n], "d4").engine(Backend("torch", "cpu", "fp32", 1)) for n in names]
    np.testing.assert_allclose(found, Averaged(members)(pixels), rtol=0, atol=1e-7)
    upright = Ensemble.load(names).engine(Backend("torch", "cpu", "fp32", 1))(pixels)
    assert np.abs(found - upright).max() > 0


def test_one_model_is_its_engine_and_nothing_around_it(tiny_model: Path) -> None:
    """Maps of one model look as they always did, and are continued."""
    ensemble = Ensemble.load([str(tiny_model)])
    assert type(ensemble.engine(Backend("torch", "cpu", "fp32", 1))).__name__ == "TorchEngine"
    (member,) = ensemble.models
    card = member.card
    assert ensemble.record() == {"model": {"name": "tiny", "sha256": card.weights_sha256}}


def test_models_that_do_not_go_together(
    tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    finer = save(tmp_path / "finer.safetensors", model.load(str(other_model)).network, mpp=0.5)
    wider = networks.network(networks.plan("4/2 3 4/2 3", "R N", filters=2)).float()
    copy = save(tmp_path / "copy.safetensors", model.load(str(tiny_model)).network)
    for other, words in (
        (finer, ["0.5 um/px", "0.972 um/px", "agree in both"]),
        (copy, ["the same model as", "count twice"]),
        (tiny_model, ["the same model as", "count twice"]),
        (tmp_path / "no.safetensors", ["no such file"]),
    ):
        with pytest.raises(ModelError) as error:
            Ensemble.load([str(tiny_model), str(other)])
        for word in (*words, str(other)):
            assert word.replace(".safetensors", "") in str(error.value)
    Ensemble.load([str(tiny_model), str(save(tmp_path / "wider.safetensors", wider))])


def test_models_of_several_strides_scan_at_one_that_is_named(
    tiny_model: Path, tmp_path: Path
) -> None:
    stride4 = networks.network(networks.plan("4/2", "N R", filters=2)).float()
    other = save(tmp_path / "stride4.safetensors", stride4)
    both = ("--model", tiny_model, "--model", other)
    slide, out = tmp_path / "slide.tif", tmp_path / "map.zarr"
    slides.write_slide(slide, slides.section(100, 120), mpp=0.972)
    command = ("heatmap", slide, "--out", out, *both, *TORCH)
    refused(run(*command), "tiny has stride 8 px", "stride4 has stride 4 px", "--stride 4")
    refused(run(*command, "--mode", "patch"), "--stride 4")
    assert not out.exists()
    ran(*command, "--stride", 4)
    assert "tolerance 1e-05" in ran("verify", slide, out, *both, "--threads", 1).stdout


def test_records_tell_models_by_their_weights(
    tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    def record(*names: Path) -> dict[str, Any]:
        return Ensemble.load([str(name) for name in names]).record()

    renamed = save(tmp_path / "renamed.safetensors", model.load(str(tiny_model)).network)
    assert same_models(record(tiny_model), record(renamed))
    assert same_models(record(tiny_model, other_model), record(other_model, renamed))
    assert not same_models(record(tiny_model), record(other_model))
    assert not same_models(record(tiny_model), record(tiny_model, other_model))


# --- maps -------------------------------------------------------------------------------------


def test_the_d4_map_of_a_turned_slide_is_the_turned_map(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "TILE_PX", 80)  # several tiles, which turn into each other
    pixels = slides.section(160, 240)
    slide = tmp_path / "slide.tif"

    def scanned(turned: Pixels, *flags: str) -> NDArray[np.float32]:
        slides.write_slide(slide, np.ascontiguousarray(turned), mpp=0.972)
        out = tmp_path / "map.zarr"
        flags = (*flags, "--no-tissue-mask", "--overwrite")
        ran("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH, *flags)
        return read(out)

    plain, found = scanned(pixels), scanned(pixels, "--tta", "d4")
    assert found.shape == (20, 30)
    assert np.abs(found - plain).max() > 1e-3
    assert np.abs(scanned(pixels[::-1]) - plain[::-1]).max() > 1e-3
    for turn in ORIENTATIONS[1:6]:  # mirrors, a half turn, a transpose, a quarter turn
        np.testing.assert_array_equal(scanned(turn(pixels), "--tta", "d4"), turn(found))


@pytest.fixture(scope="module")
def combined_map(
    section: Path, tiny_model: Path, other_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The section by two models and D4; read-only by agreement."""
    out = tmp_path_factory.mktemp("combined") / "map.zarr"
    models = ("--model", tiny_model, "--model", other_model)
    ran("heatmap", section, "--out", out, *models, "--tta", "d4", *TORCH)
    return out


def test_a_map_records_all_that_made_it(
    combined_map: Path, section: Path, tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    settings = Heatmap.open(combined_map).settings
    cards = [model.load(str(path)).card for path in (tiny_model, other_model)]
    there = {(m["name"], m["sha256"]) for m in settings["model"]["members"]}
    assert there == {(card.name, card.weights_sha256) for card in cards}
    assert settings["tta"] == "d4"

    out = Path(shutil.copytree(combined_map, tmp_path / "map.zarr"))
    command = ("heatmap", section, "--out", out, *TORCH, "--model")
    both = (other_model, "--model", tiny_model)  # the order does not matter
    assert "complete already" in ran(*command, *both, "--tta", "d4").stdout
    refused(run(*command, *both), out, 'tta: "d4" there, absent here', "--overwrite")
    refused(run(*command, tiny_model, "--tta", "d4"), out, "model.", "--overwrite")
    assert "complete already" in ran(*command, *both, "--tta", "d4").stdout


def test_verify_scores_as_the_map_was_made(
    combined_map: Path, section: Path, tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    command = ("verify", section, combined_map, "--cells", 16, "--threads", 1)
    both = ("--model", tiny_model, "--model", other_model)
    line = ran(*command, *both).stdout
    assert "16 cells scored as patches" in line
    assert "tolerance 1e-05" in line
    refused(run(*command, "--model", tiny_model), "tiny of SHA-256", "other of SHA-256", "--model")
    refused(run(*command), "default of SHA-256", "name the map's model")
    # It would not pass without the record.
    plain = Path(shutil.copytree(combined_map, tmp_path / "map.zarr"))
    record = json.loads((plain / "zarr.json").read_text())
    del record["attributes"]["slidescan"]["settings"]["tta"]
    (plain / "zarr.json").write_text(json.dumps(record))
    refused(run("verify", section, plain, *both, "--cells", 16, *TORCH), "does NOT equal")
