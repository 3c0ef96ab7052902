"""Run the server on a free port and show it: in the browser, or as a link to open."""

from __future__ import annotations

import errno
import getpass
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from urllib.parse import quote

import uvicorn
from starlette.types import ASGIApp

from slidescan.errors import ConfigError
from slidescan.viewer.guard import LOOPBACK
from slidescan.viewer.state import State

PORTS = 100
"""As many ports are tried as are taken, one after the other."""

GRACE_S = 5
"""Answers in progress at the end have this long."""


def bind(host: str, port: int) -> socket.socket:
    """Listen on a port or, where it is taken, on the next free one; 0 is any.

    Raises ConfigError: none is free or permitted, or the host is not this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--host {host}: not an address of this machine ({error})") from error
    tried = range(port, min(port + PORTS, 65536) if port else 1)
    for each in tried:
        listening = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # on Windows two servers would share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address[0], each))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE:
                continue
            remedy = "; choose a port above 1023" if error.errno == errno.EACCES else ""
            reason = error.strerror or error
            raise ConfigError(f"--host {host} --port {each}: {reason}{remedy}") from error
    raise ConfigError(
        f"--port {port}: taken, as are those up to {tried[-1]}; choose another, or 0 for any"
    )


def link_to(host: str, port: int, token: str | None) -> str:
    """The address to open in a browser; it holds the token."""
    name = socket.getfqdn() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={quote(token)}" if token else "")


def tunnel_to(port: int) -> str:
    """The command for one's own machine that brings the viewer of this one there."""
    return f"ssh -L {port}:127.0.0.1:{port} {getpass.getuser()}@{socket.gethostname()}"


def show(
    host: str, port: int, token: str | None, browser: bool, say: Callable[[str], object]
) -> None:
    """Print the link and open it in the browser, where this machine has a display."""
    link = link_to(host, port, token)
    say(link)
    if not browser:
        return
    if has_display():
        # In a thread: starting a browser takes a while, and it asks this server at once.
        threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()
    elif host in LOOPBACK:
        say(f"No display here. On your own machine: {tunnel_to(port)}  and open the link there.")


def has_display() -> bool:
    """Whether a browser with windows can be opened; text browsers would take the terminal over."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


class _Server(uvicorn.Server):
    """Tells the application before it waits for answers in progress: some would never end."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.closing = True
        await super().shutdown(sockets)


def serve(app: ASGIApp, listening: socket.socket, state: State) -> None:
    """Answer until Ctrl-C or SIGTERM; meanwhile prepare what will be asked for first."""
    threading.Thread(target=state.warm, daemon=True).start()
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        log_config=None,  # warnings and errors go to stderr all the same
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    _Server(config, state).run(sockets=[listening])
