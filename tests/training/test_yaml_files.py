"""YAML that nests, grows or cannot be read ends in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from slidescan_train.recipe.config import load_config
from slidescan_train.recipe.yaml_files import load_yaml

from slidescan.errors import ConfigError

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


def test_plain_yaml_and_aliases_are_read() -> None:
    assert load_yaml("a: &x [1, 2.5, yes]\nb: *x\n") == {"a": [1, 2.5, True], "b": [1, 2.5, True]}
    assert load_yaml("") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 100,000 values"),
        ("&a [*a]", "more than 100,000 values"),
        ("[" * 5000 + "]" * 5000, "nested too deep"),
        ("epochs: 2026-13-45", "cannot be read"),
        ("epochs: " + "9" * 5000, "cannot be read"),
        ("epochs: !!timestamp x", "cannot be read"),
        ("epochs: !!int x", "cannot be read"),
        ("epochs: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("2026-01-01: 1", "a key that is no text, line 1"),
        ("a: {1.5: 2}", "a key that is no text, line 1"),
        ("a: 1\0", "special characters are not allowed"),
        ("epochs: 1\n" * 200_000, "bytes; at most"),
    ],
)
def test_hostile_yaml_is_one_short_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as told:
        load_config(path)
    assert words in str(told.value)
    assert str(told.value).startswith(str(path))
