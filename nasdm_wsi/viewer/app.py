"""The page that shows slides, their nuclei and their provenance in a browser on this machine.

It is a WSGI application and a server that listens only on the loopback interface. All users of the
machine can connect to it, so each request must contain a token: first in the address, then in the
cookie that the page sets. A request names a slide by its number and a file of the page by one of
the names below: no part of a request ever becomes a path on disk. Tiles form a Deep Zoom pyramid:
each level is half the size of the next, and the last, ``top``, shows the slide's own pixels.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from werkzeug.exceptions import Forbidden, HTTPException, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.sansio.utils import host_is_trusted
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from ..annotations.regions import PALETTE as REGION_PALETTE
from ..annotations.regions import REGIONS
from ..annotations.types import PALETTE, TYPES
from ..errors import NasdmError, PortError
from ..provenance import edited_boxes
from .shown import Shown, labels_beside

SECONDS_IDLE = 10  # after which a connection that asks for nothing is closed
LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
PAGE = {
    "": "text/html",
    "view.css": "text/css",
    "overlay.js": "text/javascript",
    "view.js": "text/javascript",
    "openseadragon.min.js": "text/javascript",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Viewer:
    """The WSGI application, and a context manager that closes the slides.

    token: the secret that a request must contain, as the parameter ``token`` or in the cookie.
    """

    def __init__(
        self,
        slides: Sequence[Path],
        *,
        labels: Path | None = None,
        message: Callable[[NasdmError], str] = str,
        **reading: Any,
    ) -> None:
        """Open slides, with the annotations beside each; ``labels`` are those of the first.

        Annotations are read when the page first asks for them. If that fails, the page shows
        ``message(error)``. ``reading`` holds further arguments of `read_annotations`.

        Raises:
            SlideError: a file is not a slide.
        """
        self._message = message
        self.token = secrets.token_urlsafe(24)
        chosen = [labels, *[None] * (len(slides) - 1)]
        self._slides: list[Shown] = []
        try:
            for path, own in zip(slides, chosen, strict=True):
                self._slides.append(Shown(Path(path), own or labels_beside(Path(path)), reading))
        except BaseException:
            self.__exit__()
            raise
        names = ", ".join(repr(name) for name in PAGE if name)
        place = "<int:level>/<int:x>/<int:y>"
        rules = {
            "/": self._page,
            f"/<any({names}):name>": self._page,
            "/about": self._about,
            "/<int:slide>/nuclei": self._nuclei,
            f"/<int:slide>/tile/{place}": self._tile,
            f"/<int:slide>/outlines/{place}": self._outlines,
            f"/<int:slide>/counts/{place}": self._counts,
            "/<int:slide>/regions": self._region_counts,
            f"/<int:slide>/regions/{place}": self._regions,
        }
        self._routes = Map(
            [Rule(path, endpoint=answer, methods=["GET"]) for path, answer in rules.items()],
            merge_slashes=False,
        )

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        for shown in self._slides:
            shown.close()

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        try:
            response = self._respond(environ)
        except HTTPException as error:
            own = error.description if error.description != type(error).description else ""
            text = f"{error.code} {error.name}{own and ': '}{own}"
            response = Response(text, status=error.code)
        except NasdmError as error:
            response = Response(self._message(error), status=422)
        response.headers.extend(HEADERS)
        return response(environ, start_response)

    def _respond(self, environ: dict) -> Response:
        # A page of another site can reach this machine by a host name of its own (DNS rebinding).
        if not host_is_trusted(environ.get("HTTP_HOST"), HOSTS):
            raise Forbidden
        request = Request(environ)
        cookie = f"nasdm-wsi-{environ['SERVER_PORT']}"  # ports of a host share their cookies
        invited = self._is_token(request.args.get("token", ""))
        if not (invited or self._is_token(request.cookies.get(cookie, ""))):
            raise Forbidden("open the address that `nasdm-wsi view` has printed, with its token")
        answer, arguments = self._routes.bind_to_environ(environ).match()
        response = answer(**arguments)
        if invited:
            response.set_cookie(cookie, self.token, httponly=True, samesite="Strict")
        return response

    def _is_token(self, text: str) -> bool:
        """Compare a text with the token, in a time that does not depend on where they differ."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())

    def _page(self, name: str = "") -> Response:
        content = files(__package__).joinpath("static", name or "index.html").read_bytes()
        return Response(content, mimetype=PAGE[name], headers={"Cache-Control": "no-cache"})

    def _about(self) -> Response:
        slides = [shown.about() for shown in self._slides]
        for about, shown in zip(slides, self._slides, strict=True):
            # What an edit changed is marked on the slide and on those it can be compared with.
            alike = [other for other in self._slides if other.slide.size == shown.slide.size]
            about["marks"] = [
                box for other in alike for box in edited_boxes(other.slide.description)
            ]
        types, regions = _colours(TYPES[1:], PALETTE), _colours(REGIONS, REGION_PALETTE)
        return _json({"types": types, "regions": regions, "slides": slides})

    def _nuclei(self, slide: int) -> Response:
        return _json(self._shown(slide).overlay.nuclei.counts())

    def _tile(self, slide: int, **place: int) -> Response:
        return _kept(self._shown(slide).tile(**place), "image/jpeg")

    def _outlines(self, slide: int, **place: int) -> Response:
        return _kept(self._shown(slide).outlines(**place), "application/octet-stream")

    def _counts(self, slide: int, **place: int) -> Response:
        return _kept(self._shown(slide).counts(**place), "application/octet-stream")

    def _region_counts(self, slide: int) -> Response:
        return _json(self._shown(slide).overlay.region_counts())

    def _regions(self, slide: int, **place: int) -> Response:
        return _kept(self._shown(slide).regions(**place), "image/png")

    def _shown(self, slide: int) -> Shown:
        if slide >= len(self._slides):
            raise NotFound
        self._slides[slide].check_there()
        return self._slides[slide]


def serve(viewer: Viewer, *, port: int = 0) -> BaseWSGIServer:
    """Make a server on the loopback interface, ready to `serve_forever`; port 0 is a free one.

    Raises:
        PortError: the port is taken.
    """
    try:
        with socket.create_server((LOOPBACK, port)) as listener:
            return make_server(
                *(LOOPBACK, port, viewer),
                threaded=True,
                request_handler=_Handler,
                fd=listener.fileno(),
            )
    except OSError as error:
        raise PortError(
            f"port {port} cannot be used ({error.strerror}): choose another `port`, "
            "or omit it to get a free one"
        ) from error


class _Handler(WSGIRequestHandler):
    disable_nagle_algorithm = True  # otherwise the body waits until the header is acknowledged
    timeout = SECONDS_IDLE

    def make_environ(self) -> dict[str, Any]:
        """Describe a request; one whose address cannot be parsed asks for what is not there."""
        try:
            return super().make_environ()
        except ValueError:
            self.path = "/-"
            return super().make_environ()

    def log_request(self, *_: Any) -> None:
        """Log nothing: a page makes hundreds of requests."""

    def log_error(self, *_: Any) -> None:
        """Log no bad requests or idle connections, of which other users can make any number."""


def _colours(names: Sequence[str], palette: np.ndarray) -> list[dict[str, str]]:
    """Return names with their colours, which follow in the palette from 1 on."""
    return [
        {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*colour)}
        for name, colour in zip(names, palette[1:], strict=True)
    ]


def _json(value: Any) -> Response:
    text = json.dumps(value)
    return Response(text, mimetype="application/json", headers={"Cache-Control": "no-store"})


def _kept(content: bytes, mimetype: str) -> Response:
    """Make a response that the browser caches, because URLs contain the times of change."""
    keep = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(content, mimetype=mimetype, headers=keep)
