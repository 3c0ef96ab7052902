"""Damaged and hostile files for fuzzing: strategies that spoil a valid one."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Draw = Callable[[SearchStrategy[Any]], Any]

SNIPPETS = [
    *("\0", "\x1b[31m", "\x7f", "\u202e", "\ufeff", "\r", "\n\n", '"', "'", "\\", ",", ";", "#"),
    *(
        "[" * 3000,
        "{" * 50,
        '{"a":' * 3000,
        "}",
        "]",
        "<",
        ">",
        "<a>" * 3000,
        "&lt;",
        "&#0;",
        "<!--",
    ),
    *("NaN", "Infinity", "-1", "-0", "1e999", "1e-999", "9" * 400, "9" * 5000, "0x10", "null"),
    *("2026-13-45", "&a [*a]", "!!python/object:a", "!!binary x", "? x", "a: " * 400, "\u2028"),
    *("id,label", "x" * 200_000, "../" * 30, "/dev/zero", "\U0001f600", "1_000", "١٢"),
]
"""What is put into texts."""

RAW = [b"\xff\xfe", b"\xed\xa0\x80", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04", b"%!PS", b"\x80"]

VALUES: SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30), 1e300, 1e-300),
            *(
                math.nan,
                math.inf,
                -math.inf,
                0.5,
                "",
                " ",
                "\0",
                "a\nb",
                "\x1b]0;x\x07",
                "1",
                "nan",
            ),
            *("x" * 100_000, "\ud800", "../../x", [], {}, [[]], [None], {"": {}}, [0] * 5000),
            *([[0, 0]] * 3, [1e300, -1e300], {"type": "Polygon"}, {str(n): n for n in range(3000)}),
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=4,
    ),
)
"""What is put in the place of values."""

_FRESH = VALUES.map(copy.deepcopy)
"""The sampled lists are changed later, and would hold themselves."""


@st.composite
def damaged(draw: Draw, content: bytes) -> bytes:
    """Bytes with bits flipped, parts cut out, doubled, or hostile ones put in."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(out) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "double", "text", "raw", "end", "number"]))
        if kind == "flip" and out:
            out[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del out[at : at + draw(st.integers(1, 1 + len(out) // 2))]
        elif kind == "double":
            out[at:at] = out[at : at + draw(st.integers(1, 200))]
        elif kind == "text":
            out[at:at] = draw(st.sampled_from(SNIPPETS)).encode()
        elif kind == "raw":
            out[at:at] = draw(st.sampled_from(RAW))
        elif kind == "number":
            size = draw(st.sampled_from([1, 2, 4, 8]))
            value = draw(st.sampled_from([0, 1, 2**7, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1]))
            out[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
        else:
            del out[at:]
    return bytes(out)


@st.composite
def edited(draw: Draw, document: Any) -> Any:
    """A document, of dicts and lists, with a few values, keys or items changed."""
    out = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(out))
        if not places:
            return draw(_FRESH)
        inside, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add", "nest"]))
        if kind == "replace":
            inside[key] = draw(_FRESH)
        elif kind == "delete":
            del inside[key]
        elif kind == "nest":
            inside[key] = [inside[key]]
        elif isinstance(inside, dict):
            inside[draw(st.text(max_size=8))] = draw(_FRESH)
        else:
            inside.insert(key, draw(_FRESH))
    return out


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def json_of(content: bytes) -> SearchStrategy[bytes]:
    def encode(document: Any) -> bytes:
        return json.dumps(document).encode(errors="replace")

    return damaged(content) | edited(json.loads(content)).map(encode)


def yaml_of(content: bytes) -> SearchStrategy[bytes]:
    def encode(document: Any) -> bytes:
        return str(yaml.safe_dump(document, allow_unicode=True)).encode(errors="replace")

    return damaged(content) | edited(yaml.safe_load(content)).map(encode)


def csv_of(content: bytes) -> SearchStrategy[bytes]:
    """Tables with other cells, columns and rows."""

    def encode(rows: Any) -> bytes:
        file = io.StringIO()
        writer = csv.writer(file, quoting=csv.QUOTE_MINIMAL)
        for row in rows if isinstance(rows, list) else [rows]:
            cells = row if isinstance(row, list) else [row]
            writer.writerow([str(cell) for cell in cells])
        return file.getvalue().encode(errors="replace")

    rows = list(csv.reader(io.StringIO(content.decode())))
    return damaged(content) | edited(rows).map(encode)
