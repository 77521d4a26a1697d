"""nasdm-wsi view"""

from __future__ import annotations

from pathlib import Path

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
    help="Port of the page; default: a free one.",
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@click.pass_context
def view(
    context: click.Context, slides: tuple[Path, ...], port: int, no_browser: bool, **given
) -> None:
    """Show SLIDES with their nuclei in the browser, side by side.

    The slides move and zoom together. Nuclei are read from NAME.geojson beside each slide. Only
    this machine can open the page. Press Ctrl-C to stop.
    """
    import webbrowser
    from threading import Thread

    from ..viewer.app import Viewer, serve

    def message(error: NasdmError) -> str:
        return in_options(str(error), context.command)

    with Viewer(slides, message=message, **given) as viewer, serve(viewer, port=port) as server:
        address = f"http://{server.host}:{server.port}/"
        click.echo(
            f"{address} shows {', '.join(path.name for path in slides)}; press Ctrl-C to stop"
        )
        if not no_browser:
            # A browser in the terminal returns only when the user closes it.
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.serve_forever()
