"""The page that shows slides, their nuclei and their provenance in a browser on this machine.

It is a WSGI application and a server that listens only on the loopback interface. All users of the
machine can connect to it, so each request must contain a token: first in the address, then in the
cookie that the page sets. A request names a slide by its number and a file of the page by one of
the names below: no part of a request ever becomes a path on disk. Tiles form a Deep Zoom pyramid:
each level is half the size of the next, and the last, ``top``, shows the slide's own pixels.
"""

from __future__ import annotations

import hmac
import io
import json
import math
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

from PIL import Image
from werkzeug.exceptions import Forbidden, Gone, HTTPException, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.sansio.utils import host_is_trusted
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from ..annotations.types import PALETTE, TYPES
from ..errors import NasdmError, PortError
from ..geometry import Box, grow, intersect, shape
from ..provenance import edited_boxes, is_synthetic, legible_facts
from ..rendering import read_annotations
from ..slides.formats import labels_path
from ..slides.reading import open_slide
from .overlay import Overlay

TILE = 512  # side of a tile in pixels of its level
OVERLAP = 1  # pixels of its neighbours that a tile shows, so that no seam is visible
CELL = 2  # side of a cell in which nuclei are counted, in pixels of its level
OUTLINED = 2  # levels below the top with outlines; on those further down, nuclei are counted
REDUCED = 3  # levels made from the slide's smallest at most, which bounds the memory of a tile
READERS = 8  # threads that may read a slide at the same time
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
        self._slides: list[_Shown] = []
        try:
            for path, own in zip(slides, chosen, strict=True):
                self._slides.append(_Shown(Path(path), own or _labels_beside(Path(path)), reading))
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
        types = [
            {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*colour)}
            for name, colour in zip(TYPES[1:], PALETTE[1:], strict=True)
        ]
        slides = [shown.about() for shown in self._slides]
        for about, shown in zip(slides, self._slides, strict=True):
            # What an edit changed is marked on the slide and on those it can be compared with.
            alike = [other for other in self._slides if other.slide.size == shown.slide.size]
            about["marks"] = [
                box for other in alike for box in edited_boxes(other.slide.description)
            ]
        return _json({"types": types, "slides": slides})

    def _nuclei(self, slide: int) -> Response:
        return _json(self._shown(slide).overlay.nuclei.counts())

    def _tile(self, slide: int, **place: int) -> Response:
        return _kept(self._shown(slide).tile(**place), "image/jpeg")

    def _outlines(self, slide: int, **place: int) -> Response:
        return _kept(self._shown(slide).outlines(**place), "application/octet-stream")

    def _counts(self, slide: int, **place: int) -> Response:
        return _kept(self._shown(slide).counts(**place), "application/octet-stream")

    def _shown(self, slide: int) -> _Shown:
        if slide >= len(self._slides):
            raise NotFound
        self._slides[slide].check_there()
        return self._slides[slide]


class _Shown:
    """One slide of the page: its tiles, its nuclei and what is known about it."""

    def __init__(self, path: Path, labels: Path | None, reading: dict[str, Any]):
        self.labels, self._reading = labels, reading
        self.slide = open_slide(path)
        self.mpp = self.slide.mpp
        self.slide.mpp = self._unit = self.mpp or 1.0  # if it is unknown, pixels are the unit
        longest, smallest = max(self.slide.size), max(self.slide.levels[-1])
        self.top = math.ceil(math.log2(longest))
        below = max(math.log2(longest / TILE), 0), math.log2(longest / smallest) + REDUCED
        self.bottom = self.top - math.ceil(min(below))
        self._readers = READERS if self.slide.thread_safe else 1
        self._turn = Semaphore(self._readers)
        self._loading = Lock()
        self._overlay: Overlay | None = None

    def close(self) -> None:
        """Close the slide as soon as no thread reads it; no thread can read it afterwards."""
        for _ in range(self._readers):
            self._turn.acquire()
        self.slide.__exit__()

    def check_there(self) -> None:
        """Refuse a request for a slide that was deleted, instead of sending blank tiles."""
        if not self.slide.path.exists():
            raise Gone(f"{self.slide.path.name} was deleted or moved: put it back, or view others")

    def about(self) -> dict[str, Any]:
        """Return the facts that the page loads first."""
        self.check_there()
        height, width = self.slide.size
        description = self.slide.description
        facts = legible_facts(description) or [("description", description)] * bool(description)
        return {
            "name": self.slide.path.name,
            "width": width,
            "height": height,
            "mpp": self.mpp,
            "tile": TILE,
            "overlap": OVERLAP,
            "cell": CELL,
            "levels": [self.bottom, self.top],
            "outlined": self.top - OUTLINED,
            "labels": self.labels and self.labels.name,
            "synthetic": is_synthetic(description),
            "facts": [*self._size(), *facts],
            "changed": [_changed(path) for path in (self.slide.path, self.labels) if path],
        }

    def tile(self, level: int, x: int, y: int) -> bytes:
        """Return a tile as JPEG, with ``OVERLAP`` except at the edges of the slide."""
        box, down = self._box(level, x, y)
        y0, x0, y1, x1 = (n // down for n in box)
        height, width = (math.ceil(n / down) for n in self.slide.size)
        seen = intersect(grow((y0, x0, y1, x1), OVERLAP), (0, 0, height, width))
        with self._turn:
            pixels = self.slide.read(seen, mpp=self._unit * down)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=90, subsampling=0)
        return encoded.getvalue()

    def outlines(self, level: int, x: int, y: int) -> bytes:
        """Return the outlines that touch a tile; see `Overlay.outlines`."""
        box, down = self._box(level, x, y)
        if level < self.top - OUTLINED:
            raise NotFound
        return self.overlay.outlines(box, down=down)

    def counts(self, level: int, x: int, y: int) -> bytes:
        """Return the number of nuclei in each cell of a tile; see `Overlay.counts`."""
        box, down = self._box(level, x, y)
        return self.overlay.counts(box, cell=CELL * down).tobytes()

    @property
    def overlay(self) -> Overlay:
        """The nuclei in slide pixels, read at the first request, because a million take a while."""
        if self.labels is None:
            raise NotFound
        with self._loading:
            if self._overlay is None:
                nuclei = read_annotations(self.labels, mpp=self._unit, **self._reading)
                self._overlay = Overlay(nuclei.shifted(*self.slide.bounds))
        return self._overlay

    def _box(self, level: int, x: int, y: int) -> tuple[Box, int]:
        """Return the slide pixels of a tile, and the factor by which it reduces them."""
        if not self.bottom <= level <= self.top:
            raise NotFound
        down = 2 ** (self.top - level)
        side = TILE * down
        box = (y * side, x * side, (y + 1) * side, (x + 1) * side)
        if not all(shape(intersect(box, (0, 0, *self.slide.size)))):
            raise NotFound
        return box, down

    def _size(self) -> list[tuple[str, str]]:
        height, width = self.slide.size
        rows = [("pixels", f"{width:,} × {height:,}")]
        if self.mpp:
            millimetres = (f"{n * self.mpp / 1000:.2f}" for n in (width, height))
            rows.append(("size", "{} × {} mm".format(*millimetres)))
            rows.append(("pixel size", f"{self.mpp:g} µm"))
        return [*rows, ("format", self.slide.format)]


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

    def log_request(self, *_: Any) -> None:
        """Log nothing: a page makes hundreds of requests."""

    def log_error(self, *_: Any) -> None:
        """Log no bad requests or idle connections, of which other users can make any number."""


def _changed(path: Path) -> int:
    """Return the time of the last change of a file; 0 if it was deleted."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _labels_beside(slide: Path) -> Path | None:
    labels = labels_path(slide)
    return labels if labels.is_file() else None


def _json(value: Any) -> Response:
    text = json.dumps(value)
    return Response(text, mimetype="application/json", headers={"Cache-Control": "no-store"})


def _kept(content: bytes, mimetype: str) -> Response:
    """Make a response that the browser caches, because URLs contain the times of change."""
    keep = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(content, mimetype=mimetype, headers=keep)
