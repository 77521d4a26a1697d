"""A JSON parser that reads member by member: files of any size, packed or slightly invalid.

Exports hold bare NaN and Infinity, trailing commas, byte order marks and numbers beyond float64;
all of these are read. Truncated files are not.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ijson
import numpy as np
import orjson

from ..errors import AnnotationError
from .parsers import MAX_PIXELS

CHUNK = 1 << 18  # bytes read at a time
MOST_DEPTH = 200  # of brackets in brackets

_GZIP, _ZIP, _BOM = b"\x1f\x8b", b"PK\x03\x04", b"\xef\xbb\xbf"
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+"?)', re.DOTALL)
_NO_NUMBERS = (b"-NaN", b"NaN", b"-Infinity", b"Infinity")
_NO_MEMBER = re.compile(rb",(?=\s*[\]}])")
_UNFINISHED = re.compile(rb"(?:[-NaInfity]+|,\s*|)\Z")
_NOT_STRICT = re.compile(rb"NaN|Infinity|" + _NO_MEMBER.pattern)
_BAD_JSON = (json.JSONDecodeError, ijson.JSONError, UnicodeDecodeError, RecursionError)
# RuntimeError is what a zip with a password or of a newer kind raises.
_BAD_FILE = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
MOST_INFLATED = 50  # times the packed size


class TooDeepError(ValueError):
    """Brackets nested deeper than any writer of annotations nests them."""


@contextmanager
def readable(path: object) -> Iterator[None]:
    """Turn any error of reading a file into an `AnnotationError` of one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file: check the path") from error
    except TooDeepError as error:
        raise AnnotationError(
            f"{path}: brackets nested more than {MOST_DEPTH} levels deep: export it again"
        ) from error
    except _BAD_JSON as error:
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            raise AnnotationError(
                f"{path}: text that is not UTF-8, perhaps Latin-1 or Windows-1252: save it as UTF-8"
            ) from error
        raise AnnotationError(f"{path}: not JSON, or cut short: export it again") from error
    except _BAD_FILE as error:
        raise AnnotationError(f"{path}: cannot be read ({error}): export it again") from error


def texts(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[str, Any]]:
    """Yield name and open file of each JSON text in a file: all entries of a zip, else one.

    Byte order marks are skipped; UTF-16 and UTF-32 are turned into UTF-8. Packed text may be 50
    times as large as the file, or as large as a quarter of ``max_pixels`` in bytes.

    Raises:
        AnnotationError: it is larger than that; raised by reading it.
    """
    for name, text in unpacked(path, max_pixels):
        start = text.read(4)
        encoding = _encoding(start)
        text.seek(len(_BOM) if start.startswith(_BOM) else 0)
        yield name, codecs.EncodedFile(text, "utf-8", encoding) if encoding else text


def _encoding(start: bytes) -> str | None:
    """Return the encoding that the first four bytes of a text show, if it is not UTF-8."""
    if start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(start) == 4 and start[1::2] == b"\0\0" and start[0] and start[2]:
        return "utf-16-le"
    if len(start) == 4 and start[::2] == b"\0\0" and start[1] and start[3]:
        return "utf-16-be"
    return None


class Shallow:
    """A text for strict parsers whose memory grows with nesting depth.

    It raises `TooDeepError`, and has null for bare NaN and Infinity, and no trailing commas.
    """

    def __init__(self, raw: Any):
        self._chunks = self._strict(raw)

    @staticmethod
    def _strict(raw: Any) -> Iterator[bytes]:
        quotes = 0
        for chunk, _ in _brackets(raw):
            within = b'"' if quotes % 2 else b""  # the string in which the chunk begins
            quotes += _ESCAPE.sub(b"", chunk).count(b'"')
            if _NOT_STRICT.search(chunk):
                chunk = _mended(within + chunk)[len(within) :]
            if chunk:
                yield chunk

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, of any number; none at the end, or if none are requested."""
        return next(self._chunks, b"") if size else b""


def unpacked(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[str, Any]]:
    """Yield name and open file of each text in a file as `texts` does, but as it is encoded."""
    with open(path, "rb") as file:
        magic = file.read(4)
    most = max(path.stat().st_size * MOST_INFLATED, max_pixels // 4)
    if magic == _ZIP:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.filename.startswith("__MACOSX") and not entry.filename.endswith("/"):
                    with archive.open(entry) as text:
                        yield f"{path}/{entry.filename}", _Inflated(text, path, most)
    elif magic.startswith(_GZIP):
        with gzip.open(path) as text:
            yield str(path), _Inflated(text, path, most)
    else:
        with open(path, "rb") as text:
            yield str(path), text


class _Inflated(io.BufferedIOBase):
    """An unpacked text that raises an error when it exceeds ``most`` bytes."""

    def __init__(self, text: Any, path: Path, most: int):
        self._text, self._path, self._most = text, path, most

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        left = self._most + 1 - self._text.tell()
        data = self._text.read(left if size is None or size < 0 else min(size, left))
        if self._text.tell() > self._most:
            raise AnnotationError(
                f"{self._path}: unpacked it is larger than {self._most >> 20} MB: "
                "unpack it yourself, or raise `max_pixels`"
            )
        return data

    read1 = read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._text.seek(offset, whence)

    def tell(self) -> int:
        return self._text.tell()


def head(
    path: Path, members: Iterable[str], max_pixels: int = MAX_PIXELS
) -> tuple[str, dict[str, Any]]:
    """Return the first of these top-level members in a JSON file, and the plain values before it.

    The values are texts, numbers and None by their path, like "type_map.1". The name is "" if the
    file is an array, if a ``type`` other than "FeatureCollection" precedes the members, or if the
    text is damaged.
    """
    wanted = set(members)
    values: dict[str, Any] = {}
    with suppress(TooDeepError, *_BAD_JSON, *_BAD_FILE):
        for _, text in texts(path, max_pixels):
            for place, event, value in ijson.parse(Shallow(text), use_float=True):
                if place in wanted and event in ("start_map", "start_array"):
                    return place, values
                one_object = place == "type" and value != "FeatureCollection"
                if one_object or (place, event) == ("", "start_array"):
                    return "", values
                if event in ("string", "number", "null"):
                    values[place] = value
    return "", values


def members(raw: Any, name: str) -> Iterator[Any]:
    """Yield the members of an array, or of the array ``name`` of an object, or else the value.

    The members are cut out of the text and parsed one by one. The rest of the text, with a 0 for
    each member, is parsed at the end. The text is valid JSON if all of these parts are.

    Raises:
        JSONDecodeError: the text is not JSON, or truncated.
    """
    label = re.compile(rb'"%s"\s*:\s*\Z' % name.encode())
    rest, item = bytearray(), bytearray()
    level = count = 0
    listed = begun = False
    for chunk, brackets in _brackets(raw):
        done = 0
        for at, depth in brackets:
            level = level or (1 if chunk[at] == ord("[") else 2)
            if depth == level:
                listed = chunk[at] == ord("[") and (
                    level == 1 or bool(label.search(rest + chunk[done:at]))
                )
            elif depth == level + 1 and begun:
                yield _parsed(item + chunk[done : at + 1])
                rest += b"0"
                count += 1
                item, begun, done = bytearray(), False, at + 1
            elif depth == level + 1 and listed and chunk[at] == ord("{"):
                rest += chunk[done:at]
                begun, done = True, at
        (item if begun else rest).extend(chunk[done:])
    frame = _parsed(rest)
    if (frame.get(name) if isinstance(frame, dict) else frame) != [0] * count:
        yield frame


def _brackets(raw: Any) -> Iterator[tuple[bytes, Iterable[tuple[int, int]]]]:
    """Yield chunks with the positions of their outer brackets and the depth inside these."""
    depth = quotes = 0
    for chunk in _chunks(raw):
        codes = np.frombuffer(_ESCAPE.sub(b"__", chunk) if b"\\" in chunk else chunk, np.uint8)
        kinds = codes | 0x20  # the two kinds of brackets differ in this bit
        at = np.flatnonzero((codes == ord('"')) | (kinds == ord("{")) | (kinds == ord("}")))
        kinds = kinds[at]
        before = np.cumsum(kinds == ord('"')) + quotes
        quotes = before[-1] if len(at) else quotes
        real = (before % 2 == 0) & (kinds != ord('"'))
        steps = np.where(kinds[real] == ord("{"), 1, -1)
        after = np.cumsum(steps) + depth
        depth = after[-1] if len(steps) else depth
        inner = np.maximum(after, after - steps)
        if inner.max(initial=0) > MOST_DEPTH:
            raise TooDeepError
        outer = inner <= 3
        yield chunk, zip(at[real][outer].tolist(), inner[outer].tolist(), strict=True)


def _chunks(raw: Any) -> Iterator[bytes]:
    """Yield the text in chunks that split no escape sequence, and nothing that is not strict."""
    held = b""
    while chunk := raw.read(CHUNK):
        text = held + chunk
        chunk = text.rstrip(b"\\")
        chunk = chunk[: len(chunk) - len(_UNFINISHED.findall(chunk[-10:])[0])]
        held = text[len(chunk) :]
        yield chunk
    yield held


def _parsed(text: bytes | bytearray) -> Any:
    """Parse JSON, with None for bare NaN and Infinity and for numbers beyond float64."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        strict = _mended(text)
    try:
        return orjson.loads(strict)
    except orjson.JSONDecodeError:  # half a surrogate pair, or a number beyond float64
        return json.loads(strict, parse_float=_finite, parse_int=_finite)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _mended(text: bytes | bytearray) -> bytes:
    """Replace bare NaN and Infinity by null, and remove commas before closing brackets."""
    parts = _STRING.split(text)
    between = _NO_MEMBER.sub(b"", b'"'.join(parts[::2]))
    for bare in _NO_NUMBERS:
        between = between.replace(bare, b"null")
    parts[::2] = between.split(b'"')
    return b"".join(parts)
