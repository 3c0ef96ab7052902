"""Checkpoints: any damaged byte is found before a run goes on with other weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from slidescan_train.runs import checkpoint

from slidescan.errors import DataError

TENSORS = {
    "weights": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "step": torch.tensor(7),
}
ABOUT = {"epoch": 3, "rng": [1, 2]}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, TENSORS, ABOUT)
    return path


def test_what_is_saved_is_loaded(kept: Path) -> None:
    tensors, about = checkpoint.load(kept)
    assert about == ABOUT
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_every_flipped_bit_is_found(kept: Path) -> None:
    """All bits of a short file; a flip within the header's padding of spaces changes nothing."""
    whole = np.fromfile(kept, np.uint8)
    start = int.from_bytes(whole[:8].tobytes(), "little")
    padding = whole[8 : 8 + start] == ord(" ")
    for place in range(whole.size):
        if 8 <= place < 8 + start and padding[place - 8]:
            continue
        for bit in (0, 3, 6):
            spoilt = whole.copy()
            spoilt[place] ^= 1 << bit
            spoilt.tofile(kept)
            with pytest.raises(DataError, match="not a checkpoint that can be read"):
                checkpoint.load(kept)


def test_checkpoints_of_earlier_versions_have_no_checksum(kept: Path) -> None:
    kept.write_bytes(safetensors.torch.save(TENSORS, {"slidescan": '{"epoch": 3}'}))
    assert checkpoint.load(kept)[1] == {"epoch": 3}
