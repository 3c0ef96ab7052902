"""`slidescan view`: slides and their maps in the browser."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from slidescan.commands.checks import check_exist, check_models, check_slide, is_map
from slidescan.commands.options import (
    PATH,
    PLACE,
    mpp_option,
    recorded_models_option,
    viewer_libraries,
)
from slidescan.commands.terminal import local, warn
from slidescan.tools.urls import Place

LOOPBACK = "127.0.0.1"
LEAST_TOKEN = 16
"""Letters of a token that is given; a drawn one has more."""


@click.command()
@click.argument("paths", metavar="SLIDE|FOLDER|MAP...", type=PLACE, nargs=-1, required=True)
@mpp_option
@recorded_models_option
@click.option(
    "--annotations",
    type=PATH,
    multiple=True,
    help="Outlines of ASAP (.xml), NCRF (.json) or QuPath (.geojson): a file of the one slide, or "
    "a folder of files with the names of the slides. May be repeated.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="If it is taken, the next free one is used; 0 takes any.",
)
@click.option(
    "--host",
    default=LOOPBACK,
    show_default=True,
    help="Address to listen on. Any other than the default opens the viewer to the network, and "
    "needs --token.",
)
@click.option(
    "--token",
    metavar="auto|TEXT",
    help="Only who opens the printed link may look: auto draws a token, or name one of "
    f"{LEAST_TOKEN} letters or more. For machines that others can log in to as well.",
)
@click.option("--no-browser", is_flag=True, help="Print the link and open no browser.")
def command(
    paths: tuple[Place, ...],
    mpp: float | None,
    models: tuple[str, ...],
    annotations: tuple[Path, ...],
    port: int,
    host: str,
    token: str | None,
    no_browser: bool,
) -> None:
    """Show slides and their maps in the browser, until Ctrl-C.

    Name a slide and any of its maps, or a folder of slides and maps, such as the folder that
    slidescan heatmap wrote. A map that is still being scanned fills in as its blocks are finished.
    Nothing leaves this machine, and no file is read that was not named.

    \b
    Examples:
      slidescan view slide.tif map.zarr
      slidescan view slides maps --annotations annotations --no-browser
      slidescan view slide.tif --host 0.0.0.0 --token auto --port 9000
    """
    chosen = _token(host, token)
    for path in paths:
        if not is_map(path) and not (isinstance(path, Path) and path.is_dir()):
            check_slide(path)
    check_exist(*annotations)
    if models:
        check_models(models)

    with viewer_libraries():
        from slidescan.viewer.app import NOT_BUILT, STATIC, make_app
        from slidescan.viewer.serving import bind, serve, show
    from slidescan.viewer.catalogue import Catalogue, sort_paths
    from slidescan.viewer.state import State

    with ExitStack() as fetched:
        # A map that is at an address stays there; a slide is fetched, and kept while it is shown.
        places = [path if is_map(path) else fetched.enter_context(local(path)) for path in paths]
        state = State(Catalogue(sort_paths(places, annotations, mpp)), models)
        state.check()
        listening = bind(host, port)
        if not (STATIC / "index.html").is_file():
            warn(NOT_BUILT)
        show(host, listening.getsockname()[1], chosen, not no_browser, click.echo)
        try:
            serve(make_app(state, host, chosen), listening, state)
        except KeyboardInterrupt:
            click.echo("stopped")


def _token(host: str, token: str | None) -> str | None:
    """The token that the link holds. A viewer on the network must have one."""
    if token == "auto":
        import secrets

        return secrets.token_urlsafe(24)
    if token is not None and len(token) < LEAST_TOKEN:
        raise click.UsageError(
            f"--token: {len(token)} letters can be guessed; use {LEAST_TOKEN} or more, or auto"
        )
    if token is None and host not in (LOOPBACK, "localhost", "::1"):
        raise click.UsageError(
            f"--host {host} opens the viewer to the network; add --token auto, or leave --host out "
            "and reach it through ssh -L"
        )
    return token
