"""nasdm-wsi view"""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import click

from ..errors import NasdmError
from . import options
from .messages import in_options


@click.command()
@click.argument("slides", type=options.EXISTING, nargs=-1, required=True)
@click.option(
    "--labels",
    type=options.EXISTING,
    help="Nuclei of the first slide; default: NAME.geojson beside it.",
)
@options.reading
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the server; default: a free one.",
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@click.pass_context
def view(
    context: click.Context, slides: tuple[Path, ...], port: int, no_browser: bool, **given
) -> None:
    """Show SLIDES with their nuclei in the browser, side by side.

    The slides move and zoom together. Nuclei are read from NAME.geojson beside each slide. Only
    this machine can open the page, and only with the token in the address. Press Ctrl-C to stop.
    """
    from ..viewer.app import Viewer, serve

    def message(error: NasdmError) -> str:
        return in_options(str(error), context.command)

    with Viewer(slides, message=message, **given) as viewer, serve(viewer, port=port) as server:
        address = f"http://{server.host}:{server.port}/?token={viewer.token}"
        click.echo(
            f"{address} shows {', '.join(path.name for path in slides)}; press Ctrl-C to stop"
        )
        with nullcontext() if no_browser else _opened(address):
            server.serve_forever()


@contextmanager
def _opened(address: str) -> Iterator[None]:
    """Open the address in a browser, through a file that no other user may read.

    All users can read the arguments with which a browser was started, and the token is a secret.
    """
    page = f'<meta http-equiv="refresh" content="0; url={address}">'
    with TemporaryDirectory(prefix="nasdm-wsi-", ignore_cleanup_errors=True) as folder:
        file = Path(folder, "view.html")
        file.write_text(page, encoding="utf-8")
        # A browser in the terminal returns only when the user closes it.
        Thread(target=webbrowser.open, args=(file.as_uri(),), daemon=True).start()
        yield
