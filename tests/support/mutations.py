"""Damage for slides: each mutation changes the bytes of a file, as a generator decides."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

import numpy as np

Mutation: TypeAlias = Callable[[bytearray, np.random.Generator], None]

SIZES = (0, 1, 7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
"""Values that sizes, counts and offsets are set to."""

TILE_OFFSETS, TILE_COUNTS, TABLES = 324, 325, 347
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 16: 8, 18: 8}


def flip_bits(file: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(file), rng.integers(1, 64)):
        file[place] ^= 1 << int(rng.integers(8))


def flip_in_the_header(file: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, min(len(file), 512), rng.integers(1, 8)):
        file[place] = int(rng.integers(256))


def truncate(file: bytearray, rng: np.random.Generator) -> None:
    del file[int(rng.integers(0, len(file))) :]


def zero_a_part(file: bytearray, rng: np.random.Generator) -> None:
    start, length = int(rng.integers(0, len(file))), int(rng.integers(1, 1 + len(file) // 4))
    file[start : start + length] = bytes(len(file[start : start + length]))


def repeat_a_part(file: bytearray, rng: np.random.Generator) -> None:
    start, length = int(rng.integers(0, len(file))), int(rng.integers(1, 4096))
    file[start:start] = file[start : start + length]


def drop_a_part(file: bytearray, rng: np.random.Generator) -> None:
    start, length = int(rng.integers(0, len(file))), int(rng.integers(1, 4096))
    del file[start : start + length]


def change_a_tag(file: bytearray, rng: np.random.Generator) -> None:
    """Its number, its type, its count or its value."""
    tags = list(_tags(file))
    if not tags:
        return flip_in_the_header(file, rng)
    at, big, order = tags[int(rng.integers(len(tags)))]
    field = int(rng.integers(4))
    if field < 2:
        struct.pack_into(f"{order}H", file, at + 2 * field, int(rng.choice([0, 3, 4, 13, 16, 257])))
    else:
        kind = "Q" if big else "I"
        place = at + 4 + (field - 2) * (8 if big else 4)
        value = SIZES[int(rng.integers(len(SIZES)))] % 2 ** (64 if big else 32)
        struct.pack_into(f"{order}{kind}", file, place, value)


def loop_of_directories(file: bytearray, rng: np.random.Generator) -> None:
    """The last directory is followed by one that was before, or by any byte of the file."""
    links = list(_links(file))
    if not links:
        return truncate(file, rng)
    at, big, order = links[-1]
    target = (links[0][0] if rng.integers(2) else int(rng.integers(len(file)))) % 2**32
    struct.pack_into(f"{order}{'Q' if big else 'I'}", file, at, target)


def change_a_tile(file: bytearray, rng: np.random.Generator) -> None:
    """One of the offsets or sizes of tiles: none, another tile's, or beyond the file."""
    places = [
        (at, big, order)
        for at, big, order in _tags(file)
        if struct.unpack_from(f"{order}H", file, at)[0] in (TILE_OFFSETS, TILE_COUNTS)
    ]
    if not places:
        return zero_a_part(file, rng)
    at, big, order = places[int(rng.integers(len(places)))]
    kind = struct.unpack_from(f"{order}H", file, at + 2)[0]
    count, start = struct.unpack_from(f"{order}{'QQ' if big else 'II'}", file, at + 4)
    width = TYPE_BYTES.get(kind, 4)
    if count < 2 or start + count * width > len(file):
        return flip_bits(file, rng)
    one, other = (start + width * int(each) for each in rng.integers(0, count, 2))
    if rng.integers(2):
        file[one : one + width], file[other : other + width] = (
            file[other : other + width],
            file[one : one + width],
        )
    else:
        value = SIZES[int(rng.integers(len(SIZES)))] % 2 ** (8 * width)
        file[one : one + width] = value.to_bytes(width, "little" if order == "<" else "big")


def damage_jpeg_tables(file: bytearray, rng: np.random.Generator) -> None:
    """A byte in a quantisation or Huffman table, wherever one is."""
    found = [
        i for marker in (b"\xff\xdb", b"\xff\xc4", b"\xff\xc0") if (i := file.find(marker)) >= 0
    ]
    start = found[int(rng.integers(len(found)))] if found else 0
    file[min(start + int(rng.integers(2, 80)), len(file) - 1)] ^= int(rng.integers(1, 256))


@cache
def _bomb() -> bytes:
    return zlib.compress(bytes(2**26))


def bomb_a_tile(file: bytearray, rng: np.random.Generator) -> None:
    """A tile becomes deflate data that expand to 64 MB."""
    places: dict[int, list[int]] = {TILE_OFFSETS: [], TILE_COUNTS: []}
    for at, big, order in _tags(file):
        tag, kind = struct.unpack_from(f"{order}HH", file, at)
        count, start = struct.unpack_from(f"{order}{'QQ' if big else 'II'}", file, at + 4)
        if tag in places and count > 1 and TYPE_BYTES.get(kind, 4) == (width := 8 if big else 4):
            places[tag] = [start + width * i for i in range(min(count, 1000))]
    chosen = min(map(len, places.values()))
    if not chosen:
        return repeat_a_part(file, rng)
    index, at = int(rng.integers(chosen)), len(file)
    file += _bomb()
    for tag, value in ((TILE_OFFSETS, at), (TILE_COUNTS, len(_bomb()))):
        struct.pack_into("<Q" if width == 8 else "<I", file, places[tag][index], value)


MUTATIONS: dict[str, Mutation] = {
    each.__name__: each
    for each in (
        flip_bits,
        flip_in_the_header,
        truncate,
        zero_a_part,
        repeat_a_part,
        drop_a_part,
        change_a_tag,
        loop_of_directories,
        change_a_tile,
        damage_jpeg_tables,
        bomb_a_tile,
    )
}


def mutate(content: bytes, seed: int) -> tuple[str, bytes]:
    """The name of the mutation that `seed` chooses, and what it makes of the file."""
    rng = np.random.default_rng(seed)
    name = list(MUTATIONS)[seed % len(MUTATIONS)]
    file = bytearray(content)
    MUTATIONS[name](file, rng)
    return name, bytes(file)


def _tags(file: bytearray) -> Iterator[tuple[int, bool, str]]:
    """(place, whether BigTIFF, byte order) of every tag."""
    for at, count, big, order in _directories(file):
        for row in range(count):
            yield at + row * (20 if big else 12), big, order


def _links(file: bytearray) -> Iterator[tuple[int, bool, str]]:
    """Where each directory says which one follows."""
    for at, count, big, order in _directories(file):
        yield at + count * (20 if big else 12), big, order


def _directories(file: bytearray) -> Iterator[tuple[int, int, bool, str]]:
    """(place of the first tag, number of tags, whether BigTIFF, byte order) of sound TIFFs."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(file[:2]))
    if order is None:
        return
    big = struct.unpack_from(f"{order}H", file, 2)[0] == 43
    word = "Q" if big else "I"
    at = struct.unpack_from(f"{order}{word}", file, 8 if big else 4)[0]
    while at:
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", file, at)
        first = at + (8 if big else 2)
        yield first, count, big, order
        (at,) = struct.unpack_from(f"{order}{word}", file, first + count * (20 if big else 12))
