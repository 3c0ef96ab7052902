"""Run commands in a process that hears every use of the network: `python offline.py STEPS OUT`.

STEPS is a JSON file, a list of command lines for each step's name. For each step the folder OUT
gets NAME.stdout and NAME.stderr, and outcome.json tells how it ended, which uses of the network
were heard meanwhile and which packages were imported by its end.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

NETWORK = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.")

heard: list[str] = []


def guard(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith(NETWORK) or event == "socket.gethostname":
        return
    if event == "socket.__new__" and args[1] == 1:
        return  # AF_UNIX: asyncio's own pair, inside the process
    if event in ("socket.__new__", "socket.bind") and _looks_for_ipv6():
        return
    heard.append(f"{event} {args}")
    raise PermissionError(f"the network: {event} {args}")


def _looks_for_ipv6() -> bool:
    """Whether urllib3 is being imported, which binds a socket to ::1 and closes it again.

    Libraries of the evaluation and the training import it where it is installed, as moto has it.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_code.co_name == "_has_ipv6":
            return True
        frame = frame.f_back
    return False


def report() -> None:
    """End with exit code 99 where anything was heard: a library may have swallowed the error."""
    if heard:
        print(*heard, sep="\n", file=sys.stderr, flush=True)
        os._exit(99)


def listen() -> None:
    """Hear and refuse every use of the network from now on."""
    sys.addaudithook(guard)
    atexit.register(report)


def run_step(commands: list[list[str]]) -> int:
    try:
        from slidescan.cli import main

        for arguments in commands:
            main(arguments, prog_name="slidescan", standalone_mode=False)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def run_steps(steps: dict[str, list[list[str]]], out: Path) -> None:
    outcome = {}
    for name, commands in steps.items():
        for number, stream in (1, "stdout"), (2, "stderr"):
            with (out / f"{name}.{stream}").open("wb") as file:
                os.dup2(file.fileno(), number)
        before = len(heard)
        code = run_step(commands)
        # A package that may not be imported is there as None.
        packages = {module.partition(".")[0] for module, found in sys.modules.items() if found}
        outcome[name] = {"code": code, "heard": heard[before:], "packages": sorted(packages)}
    (out / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    listen()
    run_steps(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
