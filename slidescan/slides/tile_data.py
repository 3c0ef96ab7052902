"""What is wrong with the compressed data of a tile, as far as their form and checksum tell."""

from __future__ import annotations

import re
import zlib

START, END = b"\xff\xd8", b"\xff\xd9"
PADDING = 16
"""Bytes after the end of the data that some writers add."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""In the data of a scan 0xff is followed by 0, a restart marker or padding (ITU-T T.81, B.1.1)."""
SCAN, PROGRESSIVE = b"\xff\xda", b"\xff\xc2"

HUFFMAN, LUMINANCE_AC, END_OF_BLOCK = b"\xff\xc4", 0x10, 0x00
ZEROS = bytes(64)
"""More than two blocks in which every coefficient is the same: with the usual table each has 24
bytes. What an interrupted copy leaves is a multiple of 512 bytes."""

J2K_START, J2K_SIZE, J2K_PART, J2K_DATA = b"\xff\x4f", b"\xff\x51", b"\xff\x90", b"\xff\x93"
J2K_PART_BYTES = 12
"""Of a marker SOT with its segment."""
J2K_MARKER = re.compile(rb"\xff[\x90\x93-\xff]")
"""In the data of packets 0xff is followed by at most 0x8f, but for the markers SOP (ff91) and EPH
(ff92) between them (ITU-T T.800, A.1, B.10.1 and C.2)."""

CHUNK = 2**18


def jpeg_fault(content: bytes, tables: bytes = b"") -> str | None:
    """What is wrong with JPEG data, as far as markers tell; None where nothing is.

    `tables` are those that a TIFF keeps for all of its tiles.

    >>> jpeg_fault(b"\\xff\\xd8\\xff\\xda\\x12\\xff\\x00\\x34\\xff\\xd9") is None
    True
    >>> jpeg_fault(b"\\xff\\xd8\\xff\\xda\\x12\\xff\\x00\\x34\\x00\\x00")
    'its JPEG data have no end'
    """
    if not content.startswith(START):
        return "its JPEG data have no beginning"
    end = content.rfind(END, -PADDING - len(END))
    if end < 0:
        return "its JPEG data have no end"
    scan = content.find(SCAN)
    several_scans = content.find(PROGRESSIVE, 0, max(0, scan)) >= 0
    if scan < 0 or (not several_scans and MARKER.search(content, scan + len(SCAN), end)):
        return "its JPEG data have markers where none can be"
    zeros = content.find(ZEROS, scan, end) if scan >= 0 and not several_scans else -1
    if zeros >= 0 and _zeros_are_noise(content[:scan] + tables):
        return "its JPEG data hold a run of zeros that no picture has"
    return None


def _zeros_are_noise(header: bytes) -> bool:
    """Whether zeros in the data of a scan stand for coefficients, and not for a flat area.

    The shortest code of a Huffman table is all zeros (ITU-T T.81, annex C). Where it stands for the
    end of a block, zeros are a flat area; else every coefficient of many blocks would be the same.
    """
    at = header.find(HUFFMAN)
    while at >= 0:
        place, end = at + 4, at + 2 + int.from_bytes(header[at + 2 : at + 4], "big")
        while place + 17 <= min(end, len(header) - 1):
            if header[place] == LUMINANCE_AC:
                return header[place + 17] != END_OF_BLOCK
            place += 17 + sum(header[place + 1 : place + 17])
        at = header.find(HUFFMAN, max(at + 2, end))
    return False


def jpeg2000_fault(content: bytes) -> str | None:
    """What is wrong with a JPEG 2000 code-stream, as far as markers tell; None where nothing is.

    OpenSlide's decoder takes whatever follows a sound header (ITU-T T.800, annex A).
    """
    if not content.startswith(J2K_START + J2K_SIZE):
        return "its JPEG 2000 data have no beginning"
    part = content.find(J2K_PART)
    if part < 0:
        return "its JPEG 2000 data have no tile"
    while content.startswith(J2K_PART, part):
        size = int.from_bytes(content[part + 6 : part + 10], "big")
        end = part + size if size else content.rfind(END)  # 0: all that follows
        data = content.find(J2K_DATA, part + J2K_PART_BYTES, end)
        if end > len(content) or data < 0:
            return "its JPEG 2000 data do not have the length that they name"
        if J2K_MARKER.search(content, data + len(J2K_DATA), end):
            return "its JPEG 2000 data have markers where none can be"
        part = end
    if not content.startswith(END, part):
        return "its JPEG 2000 data have no end where they name it"
    return None


def deflate_fault(content: bytes, size: int) -> str | None:
    """What is wrong with zlib data that should give at most `size` bytes; None where nothing is.

    libtiff stops at the last byte that it needs and never comes to the checksum. What follows the
    checksum is nobody's. The memory is bounded, and so is the time: `size` bytes and one more.

    >>> import zlib
    >>> sound = zlib.compress(b"tissue")
    >>> deflate_fault(sound, 6) is None
    True
    >>> deflate_fault(sound[:-1] + b"?", 6)
    'its data do not match their checksum'
    """
    stream, left = zlib.decompressobj(), size + 1
    try:
        while content and left and not stream.eof:
            left -= len(stream.decompress(content, min(left, CHUNK)))
            content = stream.unconsumed_tail
    except zlib.error as error:
        mismatch = "incorrect data check" in str(error)
        return "its data do not match their checksum" if mismatch else "its data are not deflate"
    if not left:
        return "its data hold more than a tile"
    return None if stream.eof else "its data have no end"
