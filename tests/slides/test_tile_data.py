"""What the form and the checksum of compressed data tell of damage."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import slides
from PIL import Image

from slidescan.slides.tile_data import CHUNK, deflate_fault, jpeg2000_fault, jpeg_fault


def test_what_markers_tell() -> None:
    assert jpeg_fault(b"\xff\xd8\xff\xda\x12\xff\xd0\x34\xff\xd9\0\0") is None  # a restart, padding
    assert jpeg_fault(b"\xff\xd8\xff\xc2\xff\xda\x12\xff\xc4\x34\xff\xd9") is None  # progressive
    assert jpeg_fault(b"\xff\xd8\xff\xda\x12\xff\x01\x34\xff\xd9") is not None
    assert jpeg_fault(bytes(20)) == "its JPEG data have no beginning"


def encoded(pixels: np.ndarray, **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **how)
    return file.getvalue()


def test_zeros_within_jpeg_data() -> None:
    """As an interrupted copy leaves them. In a flat area they are right where tables are fitted."""
    tissue = slides.section(256, 256)
    tissue[:, 128:] = 243
    for how in ({"quality": 85}, {"quality": 30}, {"optimize": True}, {"subsampling": 0}):
        content = encoded(tissue, **how)
        assert jpeg_fault(content) is None
        at = content.find(b"\xff\xda") + 400
        damaged = content[:at] + bytes(128) + content[at + 128 :]
        assert jpeg_fault(damaged) == "its JPEG data hold a run of zeros that no picture has"
    flat = encoded(np.full((1024, 1024, 3), 243, np.uint8), optimize=True)
    assert bytes(64) in flat
    assert jpeg_fault(flat) is None


NOISE = np.random.default_rng(0).integers(0, 9, CHUNK + 1, np.uint8).tobytes()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_the_end_of_deflate_data(size: int) -> None:
    sound = zlib.compress(NOISE[:size])
    assert deflate_fault(sound, size) is None
    assert deflate_fault(sound + b"padding", size) is None
    assert deflate_fault(sound, size + 1) is None, "a shorter tile is libtiff's to refuse"
    changed = sound[:-1] + bytes([sound[-1] ^ 1])
    assert deflate_fault(changed, size) == "its data do not match their checksum"
    for cut in (1, 4, 5):
        assert deflate_fault(sound[:-cut], size) == "its data have no end"
    if size:
        assert deflate_fault(sound, size - 1) == "its data hold more than a tile"


def test_a_bomb_is_inflated_as_far_as_a_tile_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb, given, inflater = zlib.compress(bytes(2**24)), list[int](), zlib.decompressobj

    class Counting:
        """A decompressor that counts what it gives."""

        def __init__(self) -> None:
            self._real = inflater()
            self.eof, self.unconsumed_tail = False, b""

        def decompress(self, content: bytes, most: int) -> bytes:
            found = self._real.decompress(content, most)
            self.eof, self.unconsumed_tail = self._real.eof, self._real.unconsumed_tail
            given.append(len(found))
            return found

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    assert deflate_fault(bomb, 3 * CHUNK) == "its data hold more than a tile"
    assert given == [CHUNK, CHUNK, CHUNK, 1]


def test_garbage_is_not_deflate() -> None:
    sound = zlib.compress(NOISE)
    for garbage in (b"\x5a" * 99, sound[:50] + bytes(50) + sound[100:], sound[1:]):
        assert deflate_fault(garbage, len(NOISE)) == "its data are not deflate"


def stream(pixels: np.ndarray, **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", no_jp2=True, **how)
    return file.getvalue()


WAYS: list[dict[str, object]] = [
    {},
    {"irreversible": True, "quality_layers": [40, 20, 10], "quality_mode": "rates"},
    {"codeblock_size": (16, 16), "precinct_size": (64, 64), "plt": True},
    {"tile_size": (100, 100), "progression": "RPCL"},
]
"""Settings of an encoder; with several tiles a code-stream has several parts."""


@pytest.mark.parametrize("way", WAYS)
def test_sound_jpeg_2000_data(way: dict[str, object]) -> None:
    flat = np.full((256, 256, 3), 243, np.uint8)
    for pixels in (slides.section(256, 256), slides.noise(128, 100), flat):
        sound = stream(pixels, **way)
        assert jpeg2000_fault(sound) is None
        assert jpeg2000_fault(sound + bytes(20)) is None


@pytest.mark.parametrize("way", WAYS)
def test_damaged_jpeg_2000_data(way: dict[str, object]) -> None:
    sound = stream(slides.section(256, 256), **way)
    half, garbage = len(sound) // 2, slides.noise(1, 700).tobytes()
    part = sound.find(b"\xff\x90")
    cases = {
        "its JPEG 2000 data have no beginning": (sound[2:], bytes(9), b""),
        "its JPEG 2000 data have no tile": (sound[:part],),
        "its JPEG 2000 data have markers where none can be": (
            sound[:half] + garbage + sound[half + len(garbage) :],
        ),
        "its JPEG 2000 data have no end where they name it": (
            sound[:-2],
            sound[:-2] + bytes(2),
            sound[: part + 9] + bytes([sound[part + 9] ^ 1]) + sound[part + 10 :],
        ),
        "its JPEG 2000 data do not have the length that they name": (sound[:-100],),
    }
    for fault, contents in cases.items():
        for content in contents:
            assert jpeg2000_fault(content) == fault


def test_a_last_part_of_unnamed_length() -> None:
    """Psot 0: all that follows (ITU-T T.800, A.4.2)."""
    sound = stream(slides.section(256, 256))
    part = sound.find(b"\xff\x90")
    unnamed = sound[: part + 6] + bytes(4) + sound[part + 10 :]
    assert jpeg2000_fault(unnamed) is None
    assert jpeg2000_fault(unnamed[:-2]) is not None


def test_markers_between_packets_are_sound() -> None:
    sound = stream(slides.section(64, 64))
    data = sound.find(b"\xff\x93") + 2
    part = sound.find(b"\xff\x90")
    packets = b"\xff\x91\x00\x04\x00\x00" + sound[data:-2] + b"\xff\x92"
    size = (data - part + len(packets)).to_bytes(4, "big")
    assert (
        jpeg2000_fault(sound[: part + 6] + size + sound[part + 10 : data] + packets + b"\xff\xd9")
        is None
    )
