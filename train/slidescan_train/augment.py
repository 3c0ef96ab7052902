"""Augmentation with albumentations; draws depend on seed, epoch and order of patches alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

# It asks the network for a newer version when imported: nothing may leave a hospital's machine.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A  # noqa: N812  (the switch above must stand first; A is its own idiom)

from slidescan_train.config import AugmentConfig
from slidescan_train.data import Patches


def build(config: AugmentConfig) -> A.Compose:
    """The transformation of one (96, 96, 3) patch. Nothing in it moves the label region."""
    steps: list[A.BasicTransform] = []
    if config.d4:
        steps.append(A.D4(p=1))
    if config.jitter:
        steps.append(
            A.ColorJitter(
                brightness=(1 - config.brightness, 1 + config.brightness),
                contrast=(1 - config.contrast, 1 + config.contrast),
                saturation=(1 - config.saturation, 1 + config.saturation),
                hue=(-config.hue, config.hue),
                p=config.jitter,
            )
        )
    if config.blur:
        steps.append(A.GaussianBlur(blur_limit=(3, 5), p=config.blur))
    return A.Compose(steps)


def batches(
    patches: Patches, config: AugmentConfig, size: int, seed: int, epoch: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Shuffled batches of augmented pixels (size, 96, 96, 3) and labels (size,).

    One thread prepares the next batch while the caller works on this one. What is left over at
    the end of an epoch (fewer than `size`) waits for another epoch's order.
    """
    transform = build(config)
    order = np.random.default_rng((seed, epoch)).permutation(len(patches))
    size = min(size, len(patches))

    def prepare(chosen: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        transform.set_random_seed(
            int(np.random.SeedSequence((seed, epoch, chosen[0])).generate_state(1)[0])
        )
        pixels = np.stack([transform(image=patches.pixels[i])["image"] for i in chosen])
        return pixels, patches.labels[chosen]

    starts = range(0, len(order) - size + 1, size)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(prepare, order[:size])
        for start in starts:
            ready = ahead.result()
            if start + size in starts:
                ahead = pool.submit(prepare, order[start + size : start + 2 * size])
            yield ready
