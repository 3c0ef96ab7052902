"""Batches are the same whoever prepares them, and workers never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from waiting import wait_until

from slidescan.errors import ConfigError, SlidescanError

pytest.importorskip("slidescan_train.augmentation")
import patches
from slidescan_train.loop.loader import Batch, Loader, micro_batches, steps
from slidescan_train.recipe.augment_config import AugmentConfig

from slidescan.patches.labelled.patches import Patches

# --- steps and their parts ----------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 2**63), st.integers(1, 9))
def test_steps_are_a_permutation_cut_evenly(count: int, batch: int, seed: int, epoch: int) -> None:
    made = steps(count, batch, seed, epoch)
    rows = np.concatenate(made)
    assert {len(step) for step in made} == {min(batch, count)}
    assert count - len(rows) < batch
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= set(range(count))


def test_steps_change_with_the_epoch_and_the_seed() -> None:
    orders = [np.concatenate(steps(50, 10, s, e)).tolist() for s, e in ((0, 1), (0, 2), (1, 1))]
    assert orders[0] == np.concatenate(steps(50, 10, 0, 1)).tolist()
    assert len({tuple(order) for order in orders}) == 3


@given(st.integers(2, 500), st.integers(2, 70), st.integers(1, 5))
def test_micro_batches_hold_a_step_and_serve_every_process(n: int, micro: int, world: int) -> None:
    rows = np.arange(n)
    try:
        parts = micro_batches(rows, micro, world)
    except ConfigError:
        assert n < 2 * world * -(-n // (micro * world))
        return
    sizes = [len(part) for part in parts]
    assert np.array_equal(np.concatenate(parts), rows)
    assert len(parts) % world == 0
    assert max(sizes) - min(sizes) <= 1
    assert 2 <= min(sizes) <= max(sizes) <= micro


def test_a_part_too_small_for_batchnorm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a step of 3 patches in 2 micro-batches .* raise batch"):
        micro_batches(np.arange(3), 2, 1)


# --- the loader ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Patches:
    """Forty patches, memory-mapped as a data set's are."""
    path = tmp_path_factory.mktemp("loader") / "pixels.npy"
    made = patches.make(40)
    np.save(path, made.stored)
    return Patches.of(made.ids, np.load(path, mmap_mode="r"), made.labels)


def epochs(data: Patches, workers: int, index: list[NDArray[np.intp]]) -> list[list[Batch]]:
    with Loader(data, AugmentConfig(), 7, workers) as loader:
        return [list(loader.load(epoch, index)) for epoch in (1, 2)]


def by_row(batches: list[Batch]) -> dict[int, bytes]:
    return {
        int(row): pixels.numpy().tobytes()
        for batch in batches
        for row, pixels in zip(batch.rows, batch.pixels, strict=True)
    }


def test_batches_are_the_same_however_many_prepare_them(forty: Patches) -> None:
    index = [np.array(rows, dtype=np.intp) for rows in ([3, 1, 39], [0, 5], [7, 8, 9, 2], [4, 6])]
    alone = epochs(forty, 0, index)
    for workers in (1, 2):
        for ours, theirs in zip(alone, epochs(forty, workers, index), strict=True):
            for a, b, rows in zip(ours, theirs, index, strict=True):
                assert a.pixels.equal(b.pixels)
                assert a.labels.equal(b.labels)
                np.testing.assert_array_equal(a.rows, rows)
                np.testing.assert_array_equal(b.rows, rows)
                np.testing.assert_array_equal(a.labels.numpy(), rows % 2)
    first, second = (by_row(epoch) for epoch in alone)
    assert sum(first[row] == second[row] for row in first) <= 1  # drawn anew for each epoch


def test_a_patch_is_changed_alike_in_whatever_batch(forty: Patches) -> None:
    one_by_one = epochs(forty, 0, [np.array([row]) for row in range(40)])
    shuffled = epochs(forty, 0, micro_batches(np.random.default_rng(1).permutation(40), 16, 3))
    for a, b in zip(one_by_one, shuffled, strict=True):
        assert by_row(a) == by_row(b)


def test_the_loader_leaves_the_patches_as_they_are(forty: Patches) -> None:
    epochs(forty, 0, [np.arange(40)])
    np.testing.assert_array_equal(forty.pixels(), patches.make(40).pixels())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_left_early_does_not_disturb_the_next(forty: Patches, workers: int) -> None:
    index = [np.array([row, row + 1]) for row in range(0, 40, 2)]
    with Loader(forty, AugmentConfig(), 7, workers) as loader:
        for batch in loader.load(1, index):
            assert batch.rows.tolist() == [0, 1]
            break
        again = by_row(list(loader.load(2, index)))
    assert again == by_row(epochs(forty, 0, index)[1])


def test_torchs_generator_does_not_depend_on_the_loader(forty: Patches) -> None:
    import torch

    states = []
    for workers in (0, 1):
        torch.manual_seed(0)
        epochs(forty, workers, [np.arange(4)])
        states.append(torch.get_rng_state())
    assert states[0].equal(states[1])


def workers_of(loader: Loader) -> list[int]:
    assert isinstance(loader._pool, ProcessPoolExecutor)
    return list(loader._pool._processes)


def test_a_worker_that_dies_is_one_clear_error(forty: Patches) -> None:
    index = [np.arange(20)] * 200
    with Loader(forty, AugmentConfig(), 7, 1) as loader:
        batches = loader.load(1, index)
        next(batches)
        os.kill(*workers_of(loader), signal.SIGKILL)
        with pytest.raises(SlidescanError, match=r"batches died; .*workers=0") as caught:
            list(batches)
    assert "\n" not in str(caught.value)


TRAINING = """
import sys, time
import numpy as np
from slidescan_train.recipe.augment_config import AugmentConfig
from slidescan_train.loop.loader import Loader
from slidescan.patches.labelled.patches import Patches

def run():
    patches = Patches.of(("a", "b"), np.zeros((2, 96, 96, 3), np.uint8), np.array([0, 1]))
    with Loader(patches, AugmentConfig(), 0, 2) as loader:
        for i, _ in enumerate(loader.load(1, [np.arange(2)] * 100_000)):
            if i == 5:
                print(*loader._pool._processes, flush=True)
            time.sleep(0.001)

if __name__ == "__main__":
    run()
"""


def start(tmp_path: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A training with two workers, and the ids of those."""
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def gone(pids: list[int]) -> bool:
    """Whether all end in time; those that do not are killed."""
    ended = wait_until(lambda: not any(map(_alive, pids)))
    for pid in filter(_alive, pids):
        os.kill(pid, signal.SIGKILL)
    return ended


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads signal masks in /proc")
def test_workers_start_with_sigint_blocked(tmp_path: Path) -> None:
    """A worker that still imports modules has no handler yet; the mask alone protects it."""
    process, workers = start(tmp_path)
    try:
        assert len(workers) == 2
        assert all(signal.SIGINT in blocked(pid) for pid in workers)
        assert signal.SIGINT not in blocked(process.pid)  # or Ctrl-C would not stop a training
    finally:
        process.kill()
        process.communicate(timeout=60)
        assert gone(workers)


def blocked(pid: int) -> set[int]:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.partition("SigBlk:")[2].split()[0], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent_and_quietly(tmp_path: Path, how: signal.Signals) -> None:
    process, workers = start(tmp_path)
    assert len(workers) == 2
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.kill()
    said = process.communicate(timeout=60)[1]
    assert gone(workers)
    if how == signal.SIGINT:  # a parent that is killed may leave others mid-sentence
        assert said.count("Traceback") == 1, said  # its own
        assert "leaked" not in said
