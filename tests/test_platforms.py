"""What would fail on Windows or macOS, found in the source: POSIX's own calls, encodings."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "slidescan").rglob("*.py"), *(ROOT / "train").rglob("*.py")])

MODULES = {
    *("fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"),
}
"""Which Windows lacks (docs.python.org, availability of each)."""

NAMES = {
    "os": {
        *(
            "fork",
            "forkpty",
            "getegid",
            "geteuid",
            "getgid",
            "getuid",
            "getpgid",
            "getsid",
            "killpg",
        ),
        *(
            "mkfifo",
            "mknod",
            "nice",
            "chown",
            "chroot",
            "initgroups",
            "setsid",
            "setuid",
            "statvfs",
        ),
        *("sched_getaffinity", "sched_setaffinity", "sysconf", "sysconf_names", "wait", "wait3"),
        *("O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "WNOHANG", "posix_fadvise"),
        *("posix_fallocate", "sendfile", "getloadavg", "register_at_fork"),
    },
    "signal": {
        *("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGUSR1"),
        *("SIGUSR2", "SIGXFSZ", "alarm", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"),
    },
    "socket": {"AF_UNIX"},
}

ANY = re.compile("|".join(sorted(MODULES.union(*NAMES.values()))))

GUARDS = ("hasattr(", "getattr(", "os.name", "sys.platform")


def unguarded(source: str) -> Iterator[str]:
    """What the source uses without asking first whether it is there."""
    if not ANY.search(source):
        return
    tree = ast.parse(source)
    guarded = {id(node) for each in ast.walk(tree) if _is_guard(each) for node in ast.walk(each)}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            yield from (f"line {node.lineno}: {name}" for name in MODULES & set(names))
            if isinstance(node, ast.ImportFrom):
                found = NAMES.get(node.module or "", set()) & {each.name for each in node.names}
                yield from (f"line {node.lineno}: {node.module}.{name}" for name in found)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr in NAMES.get(node.value.id, ())
        ):
            yield f"line {node.lineno}: {node.value.id}.{node.attr}"


def _is_guard(node: ast.AST) -> bool:
    """A function or an `if` that asks for the system, or a `try` that expects it to be missing."""
    if isinstance(node, ast.Try):
        caught = {ast.unparse(each.type) for each in node.handlers if each.type}
        expected = ("ImportError", "ModuleNotFoundError", "AttributeError")
        return any(name in each for each in caught for name in expected)
    if isinstance(node, ast.FunctionDef):
        return any(
            isinstance(each, ast.If | ast.IfExp) and _asks(each.test) for each in ast.walk(node)
        )
    return isinstance(node, ast.If | ast.IfExp) and _asks(node.test)


def _asks(test: ast.expr) -> bool:
    return any(guard in ast.unparse(test) for guard in GUARDS)


def without_encoding(source: str) -> Iterator[str]:
    """Calls that read or write text in the system's encoding, which on Windows is no UTF-8."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else function.id
        keywords = {each.arg for each in node.keywords}
        if name == "write_text" and len(node.args) < 2 and "encoding" not in keywords:
            yield f"line {node.lineno}: write_text"
        elif name == "read_text" and not node.args and "encoding" not in keywords:
            yield f"line {node.lineno}: read_text"
        elif name == "open" and "encoding" not in keywords:
            given = [*node.args, *(each.value for each in node.keywords if each.arg == "mode")]
            modes = [
                each.value
                for argument in given
                for each in ast.walk(argument)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            if _is_of_files(function) and not any(
                "b" in mode for mode in modes if set(mode) <= MODES
            ):
                yield f"line {node.lineno}: open"


MODES = set("rwxabt+")
OTHERS = (
    "Slide.",
    "Heatmap.",
    "Image.",
    "Opened.",
    "os.",
    "cls.",
    "self",
    "webbrowser.",
    "zarr.",
    "h5py.",
)
"""Whose `open` opens no text."""


def _is_of_files(function: ast.expr) -> bool:
    return not ast.unparse(function).startswith(OTHERS)


@pytest.mark.parametrize("search", [unguarded, without_encoding])
def test_the_sources(search: Callable[[str], Iterator[str]]) -> None:
    found = [
        f"{path.relative_to(ROOT)}, {use}"
        for path in SOURCES
        for use in search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert len(SOURCES) > 100


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl", ["line 1: fcntl"]),
        ("from resource import getrusage", ["line 1: resource"]),
        ("from os import fork", ["line 1: os.fork"]),
        ("import os\nos.getuid()", ["line 2: os.getuid"]),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
        ("def f():\n    if hasattr(os, 'fork'):\n        return os.fork()", []),
        ("def f():\n    return os.fork()", ["line 2: os.fork"]),
        ("if os.name == 'posix':\n    import resource", []),
    ],
)
def test_the_search_finds_what_it_is_for(source: str, found: list[str]) -> None:
    assert list(unguarded(source)) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", ["line 1: read_text"]),
        ("path.write_text('a')", ["line 1: write_text"]),
        ("open(path)", ["line 1: open"]),
        ("path.open('w')", ["line 1: open"]),
        ("path.open('rb'), open(path, mode='wb'), path.open('w', encoding='utf-8')", []),
    ],
)
def test_the_search_finds_calls_without_encoding(source: str, found: list[str]) -> None:
    assert list(without_encoding(source)) == found
