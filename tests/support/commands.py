"""Run the command line in this process and check how it ends."""

from __future__ import annotations

from click.testing import CliRunner, Result

from slidescan.cli import main


def run(*arguments: object) -> Result:
    """Run `slidescan ARGUMENTS`. An exception other than SystemExit is a bug and is raised."""
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def ran(*arguments: object) -> Result:
    """Run a command that must succeed."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def refused(result: Result, *words: object) -> None:
    """Check that a command failed with a single line, and that the line has all the words."""
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert len(lines[0]) < 1000
    for word in words:
        assert str(word) in lines[0]
