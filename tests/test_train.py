"""Training: patches and split, settings, augmentation, loop, and what a run leaves."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import networks
import numpy as np
import patches
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from slidescan_train import augment, loop
from slidescan_train import run as runs
from slidescan_train.config import AugmentConfig, TrainConfig, load_config
from slidescan_train.data import Patches, in_validation, load_patches
from torch import nn

from slidescan.cli import main
from slidescan.errors import ConfigError, DataError
from slidescan.model import load
from slidescan.nasnet import Network, Plan

PCAM = Path(__file__).parents[1] / "configs" / "pcam.yaml"
TINY = networks.plan("4/2 3 4/2", "R", filters=2, dense=4)
STILL = AugmentConfig(d4=False, jitter=0, blur=0)
TURNS = AugmentConfig(d4=True, jitter=0, blur=0)
DATA = patches.make(120)
TRAINING, VALIDATION = DATA.split()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a network is not worth a second one, and on a busy machine waits for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(**changes: Any) -> TrainConfig:
    kept = {"plan": TINY, "augment": TURNS, "epochs": 1, "batch": 16, "learning_rate": 0.01}
    return TrainConfig.model_validate({**kept, "precision": "32-true", "seed": 5} | changes)


def settings(config: TrainConfig) -> dict[str, Any]:
    written: dict[str, Any] = config.model_dump(mode="json")
    return written


def one_line(message: str, *parts: str) -> None:
    assert "\n" not in message
    for part in parts:
        assert part in message


# --- data -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`DATA` on disk, read-only by agreement."""
    return patches.write(tmp_path_factory.mktemp("data") / "pcam", DATA)


def test_the_layout_is_read_as_it_was_written(kaggle: Path) -> None:
    read = load_patches(kaggle)
    order = np.array([DATA.ids.index(i) for i in read.ids])

    assert sorted(read.ids) == sorted(DATA.ids)
    np.testing.assert_array_equal(read.pixels, DATA.pixels[order])
    np.testing.assert_array_equal(read.labels, DATA.labels[order])
    assert (read.pixels.dtype, read.labels.dtype) == (np.uint8, np.int64)


def test_progress_sees_every_file(kaggle: Path) -> None:
    seen = []

    def progress(files: Iterator[Any], **about: Any) -> Iterator[Any]:
        seen.append(about["total"])
        return files

    load_patches(kaggle, progress)
    assert seen == [120]


def test_what_is_read_is_split_without_a_copy(kaggle: Path) -> None:
    read = load_patches(kaggle)
    for part, ids in zip(read.split(), (TRAINING.ids, VALIDATION.ids), strict=True):
        assert part.ids == tuple(sorted(ids))  # the order that training draws from
        assert np.shares_memory(part.pixels, read.pixels)


def test_only_the_listed_patches_are_read(tmp_path: Path) -> None:
    folder = patches.write(tmp_path / "pcam", DATA.take(np.arange(4)))
    first(folder).unlink()
    listed = tmp_path / "ids.txt"
    listed.write_text(f"# two\n\n{DATA.ids[1]}\n  {DATA.ids[2][:12]}\n{DATA.ids[2]}\n")
    read = load_patches(folder, only=listed)

    assert set(read.ids) == set(DATA.ids[1:3])
    for patch_id, pixels in zip(read.ids, read.pixels, strict=True):
        np.testing.assert_array_equal(pixels, DATA.pixels[DATA.ids.index(patch_id)])


def test_an_id_that_begins_another_is_itself(tmp_path: Path) -> None:
    two = DATA.take(np.arange(2))
    folder = patches.write(tmp_path / "pcam", Patches(("a", "ab"), two.pixels, two.labels))
    (tmp_path / "ids.txt").write_text("a\n")
    assert load_patches(folder, only=tmp_path / "ids.txt").ids == ("a",)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"# none\nxyz\nxy\n", ("line 2, 'xyz', matches 0", "(such lines: 2)")),
        (b"0\nxyz\n0\n", ("line 1, '0', matches", "instead of one", "(such lines: 3)")),
        (b"x" * 9999, ("matches 0", "correct --ids or --data")),
        (b"\xff\xfe", ("cannot be read",)),
        (None, ("cannot be read", "No such file")),
    ],
)
def test_a_line_that_is_not_one_patch_is_told_in_one_line(
    text: bytes | None, parts: tuple[str, ...], kaggle: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "ids.txt"
    if text:
        listed.write_bytes(text)
    with pytest.raises(DataError) as error:
        load_patches(kaggle, only=listed)
    one_line(str(error.value), f"{listed}: ", *parts)
    assert len(str(error.value)) < 200 + len(str(listed)) * 2


def test_the_list_of_the_shipped_model_is_whole() -> None:
    comment, *ids = PCAM.with_name("pcam-9300.txt").read_text().splitlines()
    assert comment.startswith("# ")
    assert ids == sorted(set(ids))
    assert len(ids) == 9300
    assert all(re.fullmatch("[0-9a-f]{12}", i) for i in ids)


# Literals: whoever moves the split makes every published figure meaningless. Real ids.
HELD_OUT = {
    "0000d563d5cfafc4e68acb7c9829258a298d9b6a": False,
    "0000da768d06b879e5754c43e2298ce48726f722": False,
    "000d4bcc9d239e8304890ffd764794e93504e475": True,
    "001d87233af8bac62b3fbf95da8a92ebff1511be": False,
    "001ee9679b82132638bd63fb4872a5132f27b8b0": True,
}


def test_the_split_is_golden() -> None:
    assert {i: in_validation(i) for i in HELD_OUT} == HELD_OUT
    assert sum(in_validation(str(i)) for i in range(10_000)) == 1018


def test_the_split_depends_on_each_id_alone() -> None:
    mixed = DATA.take(np.random.default_rng(1).permutation(len(DATA)))
    fewer = DATA.take(np.arange(0, len(DATA), 2)[:-1])
    fewer = Patches(fewer.ids, fewer.pixels, np.arange(len(fewer)) % 2)  # both labels everywhere

    held_out = {i for i in DATA.ids if in_validation(i)}
    assert set(VALIDATION.ids) == set(mixed.split()[1].ids) == held_out
    assert set(fewer.split()[1].ids) == held_out & set(fewer.ids)


def test_the_sides_of_the_split_share_nothing_and_lose_nothing() -> None:
    assert sorted(TRAINING.ids + VALIDATION.ids) == sorted(DATA.ids)
    label = dict(zip(DATA.ids, DATA.labels, strict=True))
    assert all(label[i] == y for i, y in zip(VALIDATION.ids, VALIDATION.labels, strict=True))


@pytest.mark.parametrize("side", ["training", "validation"])
def test_a_side_of_the_split_with_one_label_is_refused(side: str) -> None:
    labels = DATA.labels.copy()
    labels[[in_validation(i) == (side == "validation") for i in DATA.ids]] = 1
    with pytest.raises(DataError) as error:
        Patches(DATA.ids, DATA.pixels, labels).split()
    one_line(str(error.value), f"{side}: its ", "both labels", "add more patches")


ROWS = [(i, y) for i, y in zip(DATA.ids[:4], (0, 1, 0, 1), strict=True)]


def spoil_labels(rows: Sequence[tuple[object, ...]], *header: str) -> Callable[[Path], None]:
    return lambda folder: patches.write_labels(folder, rows, header or ("id", "label"))


def first(folder: Path) -> Path:
    return folder / "train" / f"{DATA.ids[0]}.tif"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def resize(folder: Path) -> None:
    patches.save_patch(folder, DATA.ids[0], np.zeros((50, 96, 3), np.uint8))


SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no csv": (
        lambda d: (d / "train_labels.csv").unlink(),
        ("train_labels.csv: no such file", "train/<id>.tif"),
    ),
    "empty csv": (lambda d: (d / "train_labels.csv").write_text(""), ("columns", "id and label")),
    "columns": (spoil_labels([], "name", "y"), ("columns ['name', 'y']", "id and label")),
    "no rows": (spoil_labels([]), ("no patch has label",)),
    "not text": (
        lambda d: (d / "train_labels.csv").write_bytes(b"id,label\n\xff\xfe,1\n"),
        ("train_labels.csv: cannot be read",),
    ),
    "label 2": (spoil_labels([*ROWS, ("x", 2)]), ("line 6: label '2' is not 0 or 1",)),
    "label text": (spoil_labels([("x", "tumour")]), ("line 2: label 'tumour' is not 0 or 1",)),
    "no label": (spoil_labels([("x",)]), ("line 2: label None is not 0 or 1",)),
    "no id": (spoil_labels([(1,), ("x", 0)], "label", "id"), ("line 2: has no id",)),
    "contradiction": (
        spoil_labels([*ROWS, (DATA.ids[0], 1)]),
        (f"id {DATA.ids[0]} stands there as 0 and as 1",),
    ),
    "one class": (spoil_labels(ROWS[::2]), ("no patch has label 1; a classifier needs both",)),
    "file missing": (
        lambda d: first(d).unlink(),
        (f"{DATA.ids[0]}.tif: is labelled and missing",),
    ),
    "not an image": (
        lambda d: first(d).write_text("<html>"),
        (f"{DATA.ids[0]}.tif: not a readable image",),
    ),
    "truncated": (lambda d: truncate(first(d)), (f"{DATA.ids[0]}.tif: not a readable image",)),
    "wrong size": (resize, (f"{DATA.ids[0]}.tif: is 96 x 50 px, a patch has 96 x 96",)),
}


@pytest.mark.parametrize("name", SPOILT)
def test_each_defect_of_the_data_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    folder = patches.write(tmp_path / "pcam", DATA.take(np.arange(4)))
    spoil, parts = SPOILT[name]
    spoil(folder)
    with pytest.raises(DataError) as error:
        load_patches(folder)
    one_line(str(error.value), str(folder), *parts)


def test_a_missing_folder_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as error:
        load_patches(tmp_path / "nowhere")
    one_line(str(error.value), "Kaggle's layout")


def test_labels_saved_by_a_spreadsheet_are_read(tmp_path: Path) -> None:
    folder = patches.write(tmp_path / "pcam", DATA.take(np.arange(4)))
    labels = folder / "train_labels.csv"
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes())  # a byte order mark
    assert len(load_patches(folder)) == 4


def test_an_id_repeated_without_contradiction_counts_once(tmp_path: Path) -> None:
    folder = patches.write(tmp_path / "pcam", DATA.take(np.arange(4)))
    patches.write_labels(folder, [*ROWS, ROWS[0]])
    assert len(load_patches(folder)) == 4


# --- settings -------------------------------------------------------------------------------


def test_pcam_yaml_states_every_default() -> None:
    assert load_config(PCAM) == TrainConfig() == load_config(None)
    # Not equal by leaving things out: the file is where people look settings up.
    written, default = yaml.safe_load(PCAM.read_text()), settings(TrainConfig())
    assert written.keys() == default.keys()
    assert written["augment"].keys() == default["augment"].keys()
    assert written["plan"].keys() == default["plan"].keys()


def test_settings_survive_being_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings(tiny(learning_rate=1e-5))))  # 1.0e-05 in YAML
    assert load_config(path) == tiny(learning_rate=1e-5)


@pytest.mark.parametrize("text", ["", "# nothing\n", "epochs: 60\n"])
def test_what_a_file_leaves_out_is_the_default(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert load_config(tmp_path / "c.yaml") == TrainConfig()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("epoch: 3", ("epoch = 3", "not permitted")),
        ("augment: {flip: true}", ("augment.flip = True", "not permitted")),
        ("plan: {stem: [], cells: [], depth: 3}", ("plan.depth = 3", "not permitted")),
        ("epochs: many", ("epochs = 'many'", "integer")),
        ("epochs: true", ("epochs = True", "integer")),
        ("epochs: 2.5", ("epochs = 2.5", "integer")),
        ("augment: 3", ("augment = 3", "dictionary")),
        ("precision: fp32", ("precision = 'fp32'", "'32-true'")),
        ("epochs: 0", ("epochs = 0", "greater than or equal to 1")),
        ("batch: 1", ("batch = 1", "greater than or equal to 2")),  # BatchNorm has no variance
        ("learning_rate: 0", ("learning_rate = 0", "greater than 0")),
        ("learning_rate: .inf", ("learning_rate = inf", "finite")),
        ("weight_decay: .nan", ("weight_decay = nan", "finite")),
        ("warm_up: 1", ("warm_up = 1", "less than 1")),
        ("ema: 1", ("ema = 1", "less than 1")),
        ("seed: -1", ("seed = -1", "greater than or equal to 0")),  # numpy takes no other
        ("augment: {hue: 0.6}", ("augment.hue = 0.6", "less than or equal to 0.5")),
        ("augment: {jitter: 1.5}", ("augment.jitter = 1.5", "less than or equal to 1")),
        ("[1, 2]", ("file = [1, 2]", "dictionary")),
        ("0", ("file = 0", "dictionary")),
        ("epochs: [", ("not YAML",)),
        ("epochs: 3\n\tbatch: 4", ("not YAML",)),
        (b"\xff\xfe\x00\xd8", ("not YAML",)),
    ],
)
def test_a_setting_is_refused_with_key_value_and_expectation(
    text: str | bytes, parts: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_config(path)
    one_line(str(error.value), str(path), *parts)


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    for path in tmp_path / "none.yaml", tmp_path:
        with pytest.raises(ConfigError) as error:
            load_config(path)
        one_line(str(error.value), f"{path}: cannot be read")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (networks.plan("4/2 3 4/2", "R R R"), "needs a margin of"),
        (networks.plan("3 3/2", "R"), "an odd number"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_the_data_is_read(
    plan: Plan, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "load_patches", lambda *_, **__: pytest.fail("the data was read"))
    with pytest.raises(ConfigError, match=message):
        runs.run(tiny(plan=plan), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- augmentation ---------------------------------------------------------------------------


def epoch(
    config: AugmentConfig, data: Patches = DATA, size: int = 16, seed: int = 1, number: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, labels = zip(*augment.batches(data, config, size, seed, number), strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def test_batches_have_the_shape_and_type_of_patches() -> None:
    for pixels, labels in augment.batches(DATA, AugmentConfig(), 16, 0, 1):
        assert (pixels.shape, pixels.dtype) == ((16, 96, 96, 3), np.uint8)
        assert (labels.shape, labels.dtype) == ((16,), np.int64)


@pytest.mark.parametrize("config", [AugmentConfig(), STILL, TURNS], ids=["all", "none", "d4"])
def test_draws_depend_on_seed_and_epoch_alone(config: AugmentConfig) -> None:
    first = epoch(config)
    np.random.seed(99)  # noqa: NPY002  (the generator that must not matter)
    torch.manual_seed(99)
    list(augment.batches(DATA, AugmentConfig(), 7, 3, 3))

    for one, again in zip(first, epoch(config), strict=True):
        np.testing.assert_array_equal(one, again)
    assert not np.array_equal(first[0], epoch(config, number=2)[0])
    assert not np.array_equal(first[0], epoch(config, seed=2)[0])


def test_a_patch_is_drawn_anew_in_every_epoch() -> None:
    ramp = np.arange(96, dtype=np.uint8)[:, None, None] + np.zeros((1, 96, 3), np.uint8)
    # Patches in another order would differ as well; these are all the same.
    same = Patches(DATA.ids, np.stack([ramp] * len(DATA)), DATA.labels)
    seen = [epoch(AugmentConfig(), same, number=number)[0] for number in (1, 2)]
    assert np.mean(np.any(seen[0] != seen[1], axis=(1, 2, 3))) > 0.9


def test_every_patch_appears_at_most_once_with_its_label() -> None:
    numbers = np.arange(120, dtype=np.uint8)
    flat = np.broadcast_to(numbers[:, None, None, None], DATA.pixels.shape)
    pixels, labels = epoch(TURNS, Patches(DATA.ids, np.ascontiguousarray(flat), DATA.labels))

    assert len(pixels) == 120 // 16 * 16
    assert np.all(pixels == pixels[:, :1, :1, :1])
    shown = pixels[:, 0, 0, 0]
    assert len(set(shown.tolist())) == len(shown)
    np.testing.assert_array_equal(labels, DATA.labels[shown])


def test_what_one_epoch_leaves_over_another_shows() -> None:
    flat = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None], (5, 96, 96, 3))
    five = Patches(DATA.ids[:5], np.ascontiguousarray(flat), DATA.labels[:5])
    shown = [epoch(STILL, five, size=4, number=n)[0][:, 0, 0, 0] for n in range(12)]
    assert all(len(s) == 4 for s in shown)
    assert set(np.concatenate(shown).tolist()) == set(range(5))


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    assert len(epoch(STILL, DATA.take(np.arange(10)), size=64)[0]) == 10


def multiset(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels of (N, H, W, 3), each patch's in sorted order."""
    values = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    return np.sort(values.reshape(len(pixels), -1), axis=1)


def test_flips_and_turns_keep_the_label_region_in_the_centre() -> None:
    pixels, _ = epoch(TURNS)
    still, _ = epoch(STILL)  # the same seed and epoch: the same order
    centre = patches.CENTRE

    np.testing.assert_array_equal(multiset(pixels), multiset(still))
    np.testing.assert_array_equal(
        multiset(pixels[:, centre, centre]), multiset(still[:, centre, centre])
    )


def test_all_eight_flips_and_turns_occur_and_nothing_else() -> None:
    pixels, _ = epoch(TURNS)
    still, _ = epoch(STILL)
    symmetries = [
        np.rot90(mirrored, turns, axes=(1, 2))
        for mirrored in (still, still[:, :, ::-1])
        for turns in range(4)
    ]
    same = np.stack([np.all(s == pixels, axis=(1, 2, 3)) for s in symmetries])
    assert np.all(same.sum(axis=0) == 1)
    assert np.all(same.any(axis=1))


def test_colours_and_blur_change_pixels_and_move_nothing() -> None:
    board = np.zeros((96, 96, 3), np.uint8)
    board[32:64, 32:64] = 200
    board[:32] = 90
    boards = Patches(DATA.ids, np.stack([board] * len(DATA)), DATA.labels)
    pixels, _ = epoch(AugmentConfig(d4=False, jitter=1, blur=0.5), boards)

    grey = pixels.astype(float).mean(axis=3)
    assert np.all(np.ptp(grey[:, 36:60, 36:60], axis=(1, 2)) <= 1)  # flat inside, up to the blur
    assert np.all(grey[:, 40, 40] > grey[:, 10, 48])
    assert np.all(grey[:, 10, 48] > grey[:, 80, 48])
    assert len(np.unique(grey[:, 48, 48])) > 20


# --- loop -----------------------------------------------------------------------------------


def fit(config: TrainConfig) -> tuple[list[loop.Epoch], list[float], dict[str, torch.Tensor]]:
    """Epochs, losses and the averaged weights."""
    epochs: list[loop.Epoch] = []
    losses: list[float] = []
    kept: dict[str, torch.Tensor] = {}

    def on_epoch(number: loop.Epoch, network: Network) -> None:
        assert not network.training
        epochs.append(number)
        kept.update({k: v.clone() for k, v in network.state_dict().items()})

    loop.train(config, TRAINING, VALIDATION, losses.append, on_epoch)
    return epochs, losses, kept


def test_a_tiny_network_learns_what_is_plain_to_see() -> None:
    epochs, losses, _ = fit(tiny(epochs=3, augment=AugmentConfig(), precision="bf16-mixed"))

    assert epochs[-1].auc > 0.95
    assert epochs[-1].accuracy > 0.9
    assert [e.number for e in epochs] == [1, 2, 3]
    assert len(losses) == 3 * (len(TRAINING) // 16)
    assert epochs[0].loss == pytest.approx(np.mean(losses[: len(losses) // 3]))
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3)  # the classifier starts at even odds
    assert all(e.images_per_second > 0 for e in epochs)


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    torch.manual_seed(123)  # must not matter
    one = fit(tiny(augment=AugmentConfig()))[2]
    torch.manual_seed(321)
    again = fit(tiny(augment=AugmentConfig()))[2]
    other = fit(tiny(augment=AugmentConfig(), seed=6))[2]

    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["stem.0.weight"], other["stem.0.weight"])


def test_accumulated_micro_batches_step_as_one_large_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A batch of twice the same patches has the mean and variance of its halves: BatchNorm, which
    # sees micro-batches, cannot tell the two apart.
    def halves(
        data: Patches, config: AugmentConfig, size: int, seed: int, number: int
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        for start in range(0, 48, 8):
            part = data.take(np.arange(start, start + 8))
            if size == 8:
                yield from [(part.pixels, part.labels)] * 2
            else:
                yield np.concatenate([part.pixels] * 2), np.concatenate([part.labels] * 2)

    monkeypatch.setattr(loop, "batches", halves)
    # Adam divides a gradient by its size, so rounding alone would tell the two apart.
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)
    monkeypatch.setattr(loop, "rate", lambda done, config: 0.01)
    small = fit(tiny(batch=8, accumulate=2))[2]
    large = fit(tiny(batch=16))[2]

    weights = [name for name, _ in Network(TINY).named_parameters()]
    for name in weights:  # BatchNorm's statistics move once per micro-batch
        torch.testing.assert_close(small[name], large[name], rtol=0, atol=1e-6)
    alone = fit(tiny(batch=8))[2]
    assert not torch.allclose(alone["head.2.weight"], large["head.2.weight"], atol=1e-4)


def test_steps_follow_the_accumulation(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    schedule = loop.rate

    def rate(done: float, config: TrainConfig) -> float:
        rates.append(done)
        return schedule(done, config)

    monkeypatch.setattr(loop, "rate", rate)
    _, losses, _ = fit(tiny(epochs=2, accumulate=4))
    # 108 patches make 6 micro-batches of 16, in two steps an epoch.
    assert (len(TRAINING), len(losses)) == (108, 12)
    assert sorted(set(rates)) == [0, 0.25, 0.5, 0.75]


def test_micro_batches_are_grouped_and_the_last_group_is_short() -> None:
    assert list(loop.accumulated(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(loop.accumulated(iter(range(4)), 2)) == [[0, 1], [2, 3]]
    assert list(loop.accumulated(iter(()), 2)) == []


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    config = TrainConfig(learning_rate=0.003, warm_up=0.05)
    expected = {0: 3e-6, 0.025: 0.001503, 0.05: 0.003, 0.2875: 0.0025606602, 0.525: 0.0015, 1: 0}
    for done, value in expected.items():
        assert loop.rate(done, config) == pytest.approx(value, rel=1e-6, abs=1e-15)
    assert loop.rate(0, TrainConfig(learning_rate=0.003, warm_up=0)) == pytest.approx(0.003)


def test_weight_decay_is_for_convolution_weights_alone() -> None:
    network = Network(TINY)
    decayed, spared = loop.groups(network, 0.05)
    convolutions = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]

    def ids(group: dict[str, Any]) -> list[int]:
        return sorted(map(id, group["params"]))

    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert ids(decayed) == sorted(map(id, convolutions))
    assert sorted(ids(decayed) + ids(spared)) == sorted(map(id, network.parameters()))


def test_the_average_follows_weights_and_statistics() -> None:
    def layer(value: float, batches: int) -> nn.BatchNorm2d:
        made = nn.BatchNorm2d(2)
        state = made.state_dict()
        for name in state:
            state[name].fill_(batches if name == "num_batches_tracked" else value)
        return made

    average, network = layer(1.0, 3), layer(2.0, 7)
    loop.update(average, network, 0.9)

    for name, value in average.state_dict().items():
        expected = 7.0 if name == "num_batches_tracked" else 1.1
        torch.testing.assert_close(value.double(), torch.full_like(value.double(), expected))
    assert all(torch.all(p == 2) for p in network.parameters())


def test_scores_are_of_unaugmented_patches_whatever_the_batch() -> None:
    network = networks.randomise(Network(TINY)).eval()
    cpu = torch.device("cpu")
    assert loop.score(network, VALIDATION, cpu, batch=3) == pytest.approx(
        loop.score(network, VALIDATION, cpu), abs=1e-5
    )


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    with pytest.raises(ConfigError) as error:
        fit(tiny(epochs=20, learning_rate=1e30))
    one_line(str(error.value), "epoch 1: the loss is", "learning_rate below 1e+30")


# --- the command ----------------------------------------------------------------------------


def slidescan_train(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, args)])


def failed(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    one_line(result.stderr.rstrip("\n"), "Error: ", *parts)


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings(tiny(epochs=2, precision="bf16-mixed"))))
    return path


@pytest.fixture(scope="module")
def finished(
    kaggle: Path, settings_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """The folder of a finished run and what the command said."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, slidescan_train("--data", kaggle, "--config", settings_file, "--out", out)


def test_a_run_leaves_model_card_settings_and_metrics(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == [
        "config.yaml",
        "metrics.csv",
        "model.json",
        "model.safetensors",
    ]
    assert load_config(out / "config.yaml") == tiny(epochs=2, precision="bf16-mixed")
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["number", "loss", "auc", "accuracy", "nll", "images_per_second"]
    assert [row["number"] for row in rows] == ["1", "2"]


def test_a_run_says_each_epoch_and_the_end(finished: tuple[Path, Result]) -> None:
    out, result = finished
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[2].startswith(f"{out}/model.safetensors: validation AUC ")
    assert len(lines) == 3
    assert result.stderr == ""  # no terminal, no bar; and Fabric does not report its precision


def test_the_card_says_data_split_and_scores(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    model = load(str(out / "model.safetensors"))
    card = model.card
    with (out / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]

    assert (card.name, card.plan, card.mpp) == ("model", TINY, 0.972)
    assert card.data == (
        f"PatchCamelyon, {len(TRAINING)} training patches, {TRAINING.labels.sum()} of them "
        "with tumour"
    )
    assert "SHA-256(id) / 2**256 < 0.1" in card.split
    assert "not slide-disjoint" in card.split
    assert "epoch 2 of 2" in card.reproduce
    assert card.validation.patches == len(VALIDATION)
    for name in "auc", "accuracy", "nll":
        assert getattr(card.validation, name) == pytest.approx(float(last[name]), abs=5.1e-5)
    assert set(card.versions) == {"slidescan", "torch", "albumentations", "numpy"}


def test_the_card_scores_the_weights_beside_it(finished: tuple[Path, Result]) -> None:
    model = load(str(finished[0] / "model.json"))
    auc, accuracy, nll = loop.score(model.network, VALIDATION, torch.device("cpu"))
    expected = model.card.validation
    assert (auc, accuracy, nll) == pytest.approx(
        (expected.auc, expected.accuracy, expected.nll), abs=1e-4
    )


def test_bad_data_leaves_no_run(tmp_path: Path) -> None:
    failed(
        slidescan_train("--data", tmp_path / "none", "--out", tmp_path / "out"),
        "train_labels.csv: no such file",
    )
    assert not list((tmp_path / "out").iterdir())


def test_an_earlier_run_is_not_overwritten(finished: tuple[Path, Result], kaggle: Path) -> None:
    out, _ = finished
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    failed(slidescan_train("--data", kaggle, "--out", out), "earlier run", "another --out")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_bad_settings_and_bad_output_are_one_line(kaggle: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("epoch: 3")
    data = ("--data", kaggle)
    failed(slidescan_train(*data, "--config", config), "epoch = 3", "not permitted")
    failed(slidescan_train(*data, "--config", tmp_path / "none.yaml"), "none.yaml: cannot be read")
    failed(slidescan_train(*data, "--out", config), "c.yaml: cannot be written", "another --out")
    failed(
        slidescan_train(*data, "--out", tmp_path / "a" / "b"), f"there is no folder {tmp_path}/a"
    )


def test_a_missing_data_option_is_a_usage_error() -> None:
    assert slidescan_train().exit_code == 2


@pytest.mark.parametrize("library", ["albumentations", "lightning_fabric", "sklearn.metrics"])
def test_a_missing_training_library_names_the_remedy(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "slidescan_train"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    failed(
        slidescan_train("--data", tmp_path),
        f"training needs {library}",
        "pip install 'slidescan[train]'",
    )


@pytest.mark.parametrize("finished_epochs", [0, 1])
def test_ctrl_c_says_what_is_left(
    finished_epochs: int,
    kaggle: Path,
    settings_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    score = loop.score
    scored: list[object] = []

    def interrupted(*args: Any) -> Any:
        if len(scored) == finished_epochs:
            raise KeyboardInterrupt
        scored.append(args)
        return score(*args)

    monkeypatch.setattr(loop, "score", interrupted)
    out = tmp_path / "out"
    result = slidescan_train("--data", kaggle, "--config", settings_file, "--out", out)

    left = f"the model of the last finished epoch is in {out}", "no epoch was finished"
    failed(result, f"interrupted; {left[not finished_epochs]}")
    assert (out / "model.safetensors").exists() == bool(finished_epochs)


def test_ctrl_c_does_not_take_an_earlier_model_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").touch()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run", interrupted)
    result = slidescan_train("--data", tmp_path, "--out", tmp_path)
    failed(result, "interrupted; no epoch was finished")


def test_a_run_on_listed_patches_alone(kaggle: Path, settings_file: Path, tmp_path: Path) -> None:
    listed, out = tmp_path / "ids.txt", tmp_path / "out"
    ids = (*TRAINING.ids[:40], *VALIDATION.ids)
    listed.write_text("\n".join(ids))
    options = ("--data", kaggle, "--ids", listed, "--config", settings_file, "--out", out)
    result = slidescan_train(*options)

    assert result.exit_code == 0, result.output
    card = load(str(out / "model.safetensors")).card
    assert card.data.startswith("PatchCamelyon, 40 training patches")
    assert card.validation.patches == len(VALIDATION)
    listed.write_text("nobody")
    options = (*options[:-1], tmp_path / "other")
    failed(slidescan_train(*options), f"{listed}: line 1, 'nobody', matches 0")
    assert not list((tmp_path / "other").iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from slidescan.cli import main

weights = []
replace = Path.replace

def dying(self, target):
    weights.append(target.name)
    if weights.count("model.safetensors") == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = dying
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_leaves_the_last_epoch_whole(
    kaggle: Path, settings_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["train", "--data", kaggle, "--config", settings_file, "--out", out]
    # The second epoch's weights and card are written beside and about to take their places.
    killed = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLED, *map(str, options)],
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stderr == ""

    model = load(str(out / "model.safetensors"))
    assert "epoch 1 of 2" in model.card.reproduce
    assert json.loads((out / "model.json").read_text())["validation"]["patches"] == len(VALIDATION)
