"""Every help text ends in examples, and every example runs as it is printed."""

from __future__ import annotations

import glob
import inspect
import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import examples
import pytest
from _pytest.mark import ParameterSet
from commands import ran

from slidescan.cli import main
from slidescan.scanning import selftest
from slidescan.viewer import serving

HEADING = "Examples:"

SLOW = ("train", "lr-find")
"""Commands whose examples take more than ten seconds."""

NEEDED = {"export spatialdata": "spatialdata"}
"""Libraries of commands that the development environment does not have."""


def leaves(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that runs by itself, with its words."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    if command.invoke_without_command:
        yield " ".join(path), command
    ctx = click.Context(command)
    for name in command.list_commands(ctx):
        found = command.get_command(ctx, name)
        assert found is not None
        yield from leaves(found, *path, name)


COMMANDS = dict(leaves(main))


def examples_of(command: click.Command) -> list[str]:
    """The lines below the heading at the end of a command's docstring."""
    text = inspect.cleandoc(command.help or "")
    _, heading, after = text.partition(f"\b\n{HEADING}\n")
    return [line.strip() for line in after.splitlines() if line.strip()] if heading else []


def marks(words: str) -> list[pytest.MarkDecorator]:
    needed = NEEDED.get(words)
    missing = needed is not None and find_spec(needed) is None
    return [
        *([pytest.mark.slow] if words in SLOW else []),
        *([pytest.mark.skip(reason=f"needs {needed}")] if missing else []),
    ]


def lines() -> list[ParameterSet]:
    return [
        pytest.param(words, line, id=line, marks=marks(words))
        for words, command in COMMANDS.items()
        for line in examples_of(command)
    ]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> examples.Folder:
    return examples.Folder(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("words", COMMANDS)
def test_help_ends_in_examples(words: str) -> None:
    found = examples_of(COMMANDS[words])
    assert found
    shown = ran(*words.split(), "--help").stdout
    for line in found:
        assert f"\n    {line}\n" in shown, "an example is wrapped, or lacks its \\b"
        assert line.startswith(f"slidescan {words}".rstrip())
        given = shlex.split(line)[1 + len(words.split()) :]
        arguments = any(isinstance(p, click.Argument) for p in COMMANDS[words].params)
        if given and arguments:
            assert not given[0].startswith("-"), "what is read comes first"


@pytest.mark.parametrize("words", COMMANDS)
def test_a_default_is_shown_once(words: str) -> None:
    for parameter in COMMANDS[words].params:
        if isinstance(parameter, click.Option):
            told = "[default" in (parameter.help or "")
            assert not (told and parameter.show_default), parameter.name


@pytest.mark.parametrize(("words", "line"), lines())
def test_example(
    words: str,
    line: str,
    folder: examples.Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = shlex.split(line)[1:]
    folder.copy(arguments[len(words.split()) :], tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selftest, "SECONDS", 0.1)
    monkeypatch.setattr(serving, "serve", lambda app, listening, state: listening.close())
    monkeypatch.setattr(serving, "has_display", lambda: False)
    if "--out" in arguments and "--resume" not in arguments:
        remove(Path(arguments[arguments.index("--out") + 1]))
    ran(*(name for each in arguments for name in expanded(each)))


def expanded(argument: str) -> list[str]:
    """As a shell does it: the names that match, or the argument itself."""
    return sorted(glob.glob(argument)) or [argument]


def remove(out: Path) -> None:
    """An example may write what another reads."""
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink(missing_ok=True)
