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
    "--labels", type=options.EXISTING, help="Nuclei of the first slide; default: NAME.geojson."
)
@options.reading
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: one that is free.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.pass_context
def view(
    context: click.Context, slides: tuple[Path, ...], port: int, no_browser: bool, **given
) -> None:
    """Show SLIDES in the browser, side by side and in step, with their nuclei.

    NAME.geojson beside a slide holds its nuclei. The page is for this machine only; Ctrl-C ends.
    """
    import webbrowser
    from threading import Thread

    from ..viewer.app import Viewer, serve

    def message(error: NasdmError) -> str:
        return in_options(str(error), context.command)

    with Viewer(slides, message=message, **given) as viewer, serve(viewer, port=port) as server:
        address = f"http://{server.host}:{server.port}/"
        click.echo(f"{address} shows {', '.join(path.name for path in slides)}; Ctrl-C ends")
        if not no_browser:
            # A browser in the terminal ends only when its user does.
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.serve_forever()
