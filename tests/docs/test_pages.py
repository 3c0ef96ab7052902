"""What the pages say of the repository holds: links, paths, commands and their options."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from slidescan.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT).as_posix() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)

NOW = [page for page in PAGES if page != "CHANGELOG.md"]
"""The changelog also names what there was."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:configs|docs|benchmarks|slidescan|train|tests)/[\w./-]+)`")
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.M | re.S)
COMMAND = re.compile(r"(?:slidescan|python -m benchmarks\.\w+\.\w+)(?= |$)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def shown_in_blocks(page: str) -> list[str]:
    """The command lines of a page's shell blocks, continued lines joined."""
    blocks = [block for language, block in FENCED.findall(read(page)) if language == "sh"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if COMMAND.match(line.strip())]


def shown_in_text(page: str) -> list[str]:
    """The commands of a page's code spans; arguments may be left out."""
    spans = re.findall(r"`([^`]+)`", FENCED.sub("", read(page)))
    joined = (" ".join(span.split()) for span in spans)
    return [span for span in joined if COMMAND.match(span)]


def resolve(words: list[str]) -> tuple[click.Context, list[str]]:
    """The command that a line calls, as its context, and the arguments."""
    if words[0] == "python":
        return click.Context(importlib.import_module(words[2]).main), words[3:]
    context, rest = click.Context(main, **main.context_settings), words[1:]
    while isinstance(context.command, click.Group) and rest and not rest[0].startswith("-"):
        inner = context.command.get_command(context, rest[0])
        assert inner is not None, f"no command {rest[0]} in {' '.join(words)}"
        context, rest = click.Context(inner, parent=context), rest[1:]
    return context, rest


def check(line: str, *, whole: bool) -> None:
    """Fail if the line names a command, an option or a choice that does not exist.

    A `whole` one must have everything that the command requires as well.
    """
    context, rest = resolve(shlex.split(line, comments=True))
    given, left, _ = context.command.make_parser(context).parse_args(args=rest)
    assert not left, f"{line}: {left}"
    for parameter in context.command.params:
        value = given.get(parameter.name or "")
        missing = value is None or value == ()
        assert not (whole and parameter.required and missing), f"{line}: {parameter.name}"
        if isinstance(parameter.type, click.Choice) and not missing:
            for choice in value if isinstance(value, list) else [value]:
                parameter.type.convert(choice, parameter, context)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in LINK.findall(read(page)):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name) if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    missing = [path for path in PATH.findall(read(page)) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", NOW)
def test_commands_and_options_exist(page: str) -> None:
    for line in shown_in_blocks(page):
        check(line, whole=True)
    for line in shown_in_text(page):
        check(line, whole=False)


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_shell_blocks(page: str) -> None:
    """Where the tests above find them."""
    outside = re.findall(
        r"^ {4}(?:slidescan|python|pip|make) .*$", FENCED.sub("", read(page)), flags=re.M
    )
    assert not outside


@pytest.mark.parametrize("page", PAGES)
def test_every_column_of_a_table_has_a_title(page: str) -> None:
    headers = re.findall(r"^(\|.*\|)\n\|(?:---\|)+$", read(page), flags=re.M)
    assert not [header for header in headers if re.search(r"\|\s*\|", header)]


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("slidescan heatmaps slide.svs --out map.zarr", True),
        ("slidescan heatmap slide.svs --outs map.zarr", True),
        ("slidescan heatmap slide.svs", True),
        ("slidescan heatmap --precision fp8", False),
        ("slidescan models bset", False),
        ("python -m benchmarks.speed.growth --fast", False),
    ],
)
def test_a_wrong_command_is_found(line: str, whole: bool) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        check(line, whole=whole)


def test_commands_are_found_in_the_pages() -> None:
    assert sum(len(shown_in_blocks(page)) for page in PAGES) > 20
    assert sum(len(shown_in_text(page)) for page in PAGES) > 20


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) < 150
