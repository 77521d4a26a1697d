"""The server of `nasdm-wsi view`: what it answers, and all that it refuses."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Queue
from threading import Thread
from urllib.parse import quote, unquote, urlparse

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from helpers import PATIENCE
from PIL import Image
from scipy import ndimage
from tifffile import TiffWriter
from werkzeug.test import Client

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import PALETTE as REGION_PALETTE
from nasdm_wsi.annotations.regions import Regions
from nasdm_wsi.annotations.types import PALETTE, TYPES
from nasdm_wsi.cli.main import main
from nasdm_wsi.provenance import WARNING
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides.formats import format_of
from nasdm_wsi.viewer import app
from nasdm_wsi.viewer.app import Viewer, serve
from nasdm_wsi.viewer.overlay import Overlay

SIZE = (1100, 1500)
TOP = 11  # 2 ** 11 pixels are the first power of two that hold the slide
SECRET = "precious"


def smooth(size, seed=0):
    """RGB uint8 without the fine grain that JPEG would lose."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 250, (size[0] // 50, size[1] // 50, 3), np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def scattered(count, size, seed=0):
    """Round nuclei of all types, one of them with a hole, some of them over tile borders."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 1, (count, 2)) * (size[1], size[0])
    polygons = shapely.buffer(shapely.points(xy), rng.uniform(4, 12, count), quad_segs=5)
    polygons[0] = polygons[0].difference(polygons[0].centroid.buffer(1))
    return Nuclei.from_polygons(polygons, np.arange(count) % 6 + 1, mpp=0.5)


@pytest.fixture(scope="module")
def pixels():
    return smooth(SIZE)


@pytest.fixture(scope="module")
def nuclei():
    return scattered(900, SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pixels, nuclei):
    """A rendered slide and its nuclei, a picture without pixel size, and a file left alone."""
    folder = tmp_path_factory.mktemp("slides")
    facts = {"software": "nasdm-wsi 0.1.0", "seed": 7, "region": [0, 0, *SIZE]}
    ome_tiff.write(
        folder / "slide.ome.tif",
        pixels,
        mpp=0.5,
        description=f"{WARNING} {json.dumps(facts)}",
        lossless=True,
    )
    write_geojson(folder / "slide.geojson", nuclei)
    Image.fromarray(pixels).save(folder / "picture.png")
    (folder / "secret.txt").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def viewer(folder):
    with Viewer([folder / "slide.ome.tif", folder / "picture.png"]) as viewer:
        yield viewer


@pytest.fixture(scope="module")
def client(viewer):
    return invited(viewer)


@pytest.fixture(scope="module")
def server(viewer):
    """A server that answers; its port."""
    with serve(viewer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def invited(viewer):
    """A client with the cookie of the page."""
    client = Client(viewer)
    assert client.get(f"/?token={viewer.token}").status_code == 200
    return client


def picture(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.mimetype) == (200, "image/jpeg")
    return np.asarray(Image.open(io.BytesIO(answer.data)))


def assert_shows(tile, expected):
    assert tile.shape == expected.shape
    away = np.abs(tile.astype(int) - expected)
    assert away.mean() < 1.5 and away.max() <= 16


def part(pixels, x, y):
    """What a tile shows: one pixel of its neighbours comes with it."""
    rows, columns = (slice(max(512 * n - 1, 0), 512 * n + 513) for n in (y, x))
    return pixels[rows, columns]


def rings(data, corner):
    """The (ring, type number) of an answer, in slide pixels."""
    (count,) = np.frombuffer(data, "<u4", 1)
    lengths, types = np.frombuffer(data, "<u4", 2 * count, offset=4).reshape(2, count)
    xy = np.frombuffer(data, "<f4", offset=4 + 8 * count).reshape(-1, 2) + corner
    return list(zip(np.split(xy, np.cumsum(lengths)[:-1]), types, strict=True))


def raw(port, request, token=""):
    """What a socket answers to bytes that no well-behaved client would send."""
    if token:
        cookie = f"\r\nCookie: nasdm-wsi-{port}={token}\r\n\r\n"
        request = request.replace(b"\r\n\r\n", cookie.encode())
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# Tiles


@pytest.mark.parametrize("slide", [0, 1], ids=["pyramid", "picture"])
def test_tiles_show_the_pixels_of_the_slide(client, pixels, slide):
    for y in range(3):
        for x in range(3):
            assert_shows(picture(client, f"/{slide}/tile/{TOP}/{x}/{y}"), part(pixels, x, y))
    halves = pixels.reshape(550, 2, 750, 2, 3).mean((1, 3))
    assert_shows(picture(client, f"/{slide}/tile/{TOP - 1}/1/0"), part(halves, 1, 0))
    assert picture(client, f"/{slide}/tile/{TOP - 2}/0/0").shape == (275, 375, 3)


def test_tiles_beside_the_slide_are_not_there(client):
    for place in (f"{TOP}/3/0", f"{TOP}/0/3", f"{TOP + 1}/0/0", f"{TOP - 3}/0/0", f"{TOP}/-1/0"):
        assert client.get(f"/0/tile/{place}").status_code == 404
    assert client.get(f"/2/tile/{TOP}/0/0").status_code == 404
    assert client.get(f"/0/tile/{TOP}/{10**40}/0").status_code == 404


def test_threads_may_ask_at_once_where_only_tiffslide_sees_the_levels(tmp_path, pixels):
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib"}
    with TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(pixels, subifds=1, **options)
        tiff.write(pixels[::2, ::2], subfiletype=1, **options)
    places = [(x, y) for x in range(3) for y in range(3)] * 3
    with Viewer([tmp_path / "a.ome.tif"]) as viewer, ThreadPoolExecutor(8) as threads:
        client = invited(viewer)
        tiles = threads.map(
            lambda place: picture(client, "/0/tile/11/{}/{}".format(*place)), places
        )
        for (x, y), tile in zip(places, tiles, strict=True):
            assert_shows(tile, part(pixels, x, y))


# Nuclei


def test_outlines_of_a_tile_are_those_of_the_nuclei_there(client, nuclei):
    polygons = nuclei.polygons()
    boxes = shapely.box(*shapely.bounds(polygons).T)
    for level, x, y in [(TOP, 1, 1), (TOP, 2, 0), (TOP - 1, 0, 0), (TOP - 2, 0, 0)]:
        down = 2 ** (TOP - level)
        corner = np.array([x, y]) * 512 * down
        tile = shapely.box(*corner, *(corner + 512 * down))
        there = np.flatnonzero(shapely.area(shapely.intersection(boxes, tile)) > 0)
        answer = client.get(f"/0/outlines/{level}/{x}/{y}")
        found = rings(answer.data, corner)
        expected = [
            (np.asarray(ring.coords), nuclei.types[k])
            for k in there
            for ring in (polygons[k].exterior, *polygons[k].interiors)
        ]
        assert [kind for _, kind in found] == [kind for _, kind in expected] and len(found) > 50
        for (ring, _), (whole, _) in zip(found, expected, strict=True):
            away = shapely.hausdorff_distance(shapely.LineString(ring), shapely.LineString(whole))
            assert away <= (0.01 if down == 1 else 0.36 * down)
        vertices, drawn = (sum(len(ring) for ring, _ in rows) for rows in (expected, found))
        assert drawn == vertices if down == 1 else drawn < vertices


def test_labels_that_are_given_are_those_of_the_first_slide_alone(folder, tmp_path):
    labels = tmp_path / "other.geojson"
    labels.write_bytes((folder / "slide.geojson").read_bytes())
    slides = [folder / "picture.png", folder / "slide.ome.tif", folder / "picture.png"]
    with Viewer(slides, labels=labels) as viewer:
        shown = invited(viewer).get("/about").json["slides"]
    assert [slide["labels"] for slide in shown] == ["other.geojson", "slide.geojson", None]


def test_nuclei_count_from_where_the_scanned_part_begins(folder, nuclei):
    with Viewer([folder / "slide.ome.tif"]) as viewer:
        viewer._slides[0].slide.bounds = (30, 50)
        shown = Overlay(nuclei.shifted(30, 50))
        data = invited(viewer).get(f"/0/counts/{TOP}/0/0").data
    assert data == shown.counts((0, 0, 512, 512), cell=2).tobytes()


def test_where_no_nucleus_is_there_is_no_outline(nuclei):
    for down in (1, 4):
        assert Overlay(nuclei).outlines((0, 9000, 512, 9512), down=down) == bytes(4)


def test_counts_of_all_tiles_are_the_nuclei_each_in_its_cell(client, nuclei):
    expected = np.zeros((6, 768, 768), int)
    x0, y0, x1, y1 = shapely.bounds(nuclei.polygons()).T
    middle = ((y0 + y1) / 2, (x0 + x1) / 2)
    np.add.at(expected, (nuclei.types - 1, *(np.array(middle) // 2).astype(int)), 1)
    for y in range(3):
        for x in range(3):
            data = client.get(f"/0/counts/{TOP}/{x}/{y}").data
            there = expected[:, 256 * y : 256 * y + 256, 256 * x : 256 * x + 256]
            np.testing.assert_array_equal(np.frombuffer(data, "<u2").reshape(there.shape), there)


def test_legend_counts_and_colours(client, nuclei):
    assert client.get("/0/nuclei").json == nuclei.counts()
    assert client.get("/1/nuclei").status_code == 404
    about = client.get("/about").json
    assert [t["name"] for t in about["types"]] == list(TYPES[1:])
    assert [bytes.fromhex(t["color"][1:]) for t in about["types"]] == [
        bytes(c) for c in PALETTE[1:]
    ]


def test_regions_are_rasterised_as_for_rendering(folder, nuclei, tmp_path):
    """Each has its colour, as opaque as glass inside and opaque on its border."""
    areas = [shapely.box(20, 30, 700, 600), shapely.Point(300, 300).buffer(90)]
    regions = Regions.from_polygons(areas, ["epithelium", "lumen"], mpp=0.5)
    write_geojson(tmp_path / "a.geojson", replace(nuclei, regions=regions))
    with Viewer([folder / "slide.ome.tif"], labels=tmp_path / "a.geojson") as viewer:
        client = invited(viewer)
        assert client.get("/0/regions").json == {"lumen": 1, "epithelium": 1}
        answers = [client.get(f"/0/regions/{TOP - k}/0/0") for k in (0, 1)]
        assert client.get(f"/0/regions/{TOP}/9/0").status_code == 404
    for answer, mpp in zip(answers, (0.5, 1.0), strict=True):
        assert answer.mimetype == "image/png"
        shown = np.asarray(Image.open(io.BytesIO(answer.data)).convert("RGBA"))
        drawn = Conditioning(replace(nuclei, regions=regions).scaled(mpp), SIZE)
        expected = drawn.regions((0, 0, *shown.shape[:2]))
        np.testing.assert_array_equal(shown[..., 3] > 0, expected > 0)
        coloured = expected > 0
        np.testing.assert_array_equal(shown[coloured, :3], REGION_PALETTE[expected][coloured])
        inside = ndimage.minimum_filter(expected, 3) == ndimage.maximum_filter(expected, 3)
        assert set(shown[inside & coloured, 3]) == {50}
        assert 0 < (shown[..., 3] == 255).mean() < 0.02


def test_a_slide_without_regions_shows_none(client):
    assert client.get("/0/regions").json == {}
    shown = np.asarray(Image.open(io.BytesIO(client.get(f"/0/regions/{TOP}/0/0").data)))
    assert shown.shape == (513, 513) and not shown.any()
    assert client.get("/1/regions").status_code == 404


def test_annotations_that_cannot_be_read_are_told_and_the_slide_is_shown(folder, tmp_path):
    labels = tmp_path / "other.geojson"
    labels.write_text((folder / "slide.geojson").read_text().replace("Plasma", "Necrosis"))
    with Viewer([folder / "slide.ome.tif"], labels=labels) as viewer:
        answer = invited(viewer).get("/0/nuclei")
        assert answer.status_code == 422 and re.search("Necrosis.*`class_map`", answer.text)
        assert invited(viewer).get(f"/0/tile/{TOP}/0/0").status_code == 200
    with Viewer([folder / "slide.ome.tif"], labels=labels, message=lambda e: "no!") as viewer:
        assert invited(viewer).get("/0/nuclei").text == "no!"
    chosen = {"class_map": {"Necrosis": "plasma"}, "labels": labels}
    with Viewer([folder / "picture.png"], **chosen) as viewer:
        assert invited(viewer).get("/0/nuclei").json["plasma"] == 150


def test_provenance(client):
    slide, photograph = client.get("/about").json["slides"]
    assert slide["synthetic"] and not photograph["synthetic"]
    facts = dict(slide["facts"])
    assert facts["pixels"] == "1,500 × 1,100" and facts["size"] == "0.75 × 0.55 mm"
    assert (facts["seed"], facts["region"]) == ("7", "0 0 1500 1100 (x, y, width, height)")
    assert photograph["mpp"] is None and "size" not in dict(photograph["facts"])


def test_an_edit_is_marked_on_the_slide_and_on_its_source(folder, pixels, tmp_path):
    facts = {"known": {"source": "a.svs", "boxes": [[10.0, 20.0, 40.0, 60.0]]}}
    edited, small = tmp_path / "edited.ome.tif", tmp_path / "small.png"
    text = f"a scanner's words | {WARNING} {json.dumps(facts)}"
    ome_tiff.write(edited, pixels, mpp=0.5, description=text, lossless=True)
    Image.fromarray(pixels[:64, :64]).save(small)
    with Viewer([edited, folder / "slide.ome.tif", small]) as viewer:
        slides = invited(viewer).get("/about").json["slides"]
    assert [slide["marks"] for slide in slides] == [[[10, 20, 40, 60]]] * 2 + [[]]


# What is refused

HOSTILE = [
    "/../../etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/etc/passwd",
    "/static/view.js",
    "/__init__.py",
    "/../view.py",
    "/view.js/../../view.py",
    "/view.js%00.txt",
    "/%00",
    "/openseadragon.LICENSE.txt",
    "/secret.txt",
    "/{folder}/secret.txt",
    "/0/{folder}/secret.txt",
    "/0/tile/11/0/..%2f..%2fsecret.txt",
    "/0/tile/11/0/0/../../../secret.txt",
    "/..\\..\\secret.txt",
    "/-1/tile/11/0/0",
    "/0x0/tile/11/0/0",
    "/file:///etc/passwd",
    "http://[",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_but_the_named_files_whatever_is_asked_for(server, viewer, folder, path):
    line = f"GET {path.format(folder=folder)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head, _, body = raw(server.port, line.encode(), viewer.token).partition(b"\r\n\r\n")
    assert head.split()[1] == b"404" and body == b"404 Not Found"
    assert raw(server.port, line.encode()).split()[1] == b"403"


def test_other_methods_are_refused(client):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.open("/about", method=method).status_code == 405


@pytest.mark.parametrize(
    "host, status",
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("192.168.0.7", 403),
        ("", 403),
    ],
)
def test_only_the_names_of_this_machine_are_served(server, viewer, host, status):
    for path in ("/", "/about", f"/0/tile/{TOP}/0/0"):
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        answer = raw(server.port, request, viewer.token)
        assert int(answer.split()[1]) == status


def test_a_request_without_host_is_refused(server, viewer):
    request = b"GET / HTTP/1.0\r\n\r\n"
    assert raw(server.port, request, viewer.token).split()[1] == b"403"


EVERYTHING = ["/", "/view.js", "/view.css", "/about", "/0/nuclei", f"/0/tile/{TOP}/0/0"]
EVERYTHING += [
    "/0/regions",
    f"/0/regions/{TOP}/0/0",
    f"/0/outlines/{TOP}/0/0",
    f"/0/counts/{TOP}/0/0",
    "/nowhere",
    "/5/nuclei",
]


@pytest.mark.parametrize("path", EVERYTHING)
def test_nothing_is_told_without_the_token(viewer, path):
    stranger, token = Client(viewer), viewer.token
    wrong = ["", token[:-1], token + "x", token.swapcase(), "é", "\ud800"]
    for query in ("", *(f"?token={quote(text, errors='replace')}" for text in wrong)):
        answer = stranger.get(path + query)
        assert answer.status_code == 403 and "address that" in answer.text, query
        assert "Set-Cookie" not in answer.headers and token not in answer.text
    stranger.set_cookie("nasdm-wsi-80", token[:-1])
    stranger.set_cookie("nasdm-wsi-81", token)  # of a viewer at another port
    assert stranger.get(path).status_code == 403
    assert stranger.get(f"{path}?token={token}").status_code in (200, 404)


def test_the_page_passes_the_token_on_in_a_cookie_that_scripts_cannot_read(viewer):
    client = Client(viewer)
    cookie = client.get(f"/?token={viewer.token}").headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert client.get("/about").status_code == 200
    assert len(viewer.token) >= 32


def test_each_viewer_has_a_token_of_its_own(folder, viewer):
    with Viewer([folder / "picture.png"]) as other:
        assert other.token != viewer.token
        assert Client(other).get(f"/?token={viewer.token}").status_code == 403


def test_idle_connections_are_closed_and_others_are_served(viewer, monkeypatch, capfd):
    monkeypatch.setattr(app._Handler, "timeout", 0.5)
    with serve(viewer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        idle = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(30)]
        idle[0].sendall(b"GET / HTTP/1.1\r\nHost:")  # and never the rest
        request = b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert raw(server.port, request, viewer.token).split()[1] == b"200"
        for connection in idle:
            with connection, suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        server.shutdown()
        thread.join()
    assert capfd.readouterr().err == ""


def test_a_slide_without_any_nucleus_left_is_shown(folder, tmp_path):
    labels = tmp_path / "none.geojson"
    write_geojson(labels, Nuclei.from_polygons([], [], mpp=0.5))
    with Viewer([folder / "slide.ome.tif"], labels=labels) as viewer:
        client = invited(viewer)
        assert not any(json.loads(client.get("/0/nuclei").text).values())
        for what in ("outlines", "counts", "regions"):
            assert client.get(f"/0/{what}/{TOP}/0/0").status_code == 200


@pytest.mark.parametrize(
    "name", ["slide.ome.tif", "slide.ome.zarr", "slide.svs", "slide.dcm", "picture.png"]
)
def test_a_slide_that_is_deleted_is_told_in_a_sentence(folder, tmp_path, pixels, name):
    slide, labels = tmp_path / name, tmp_path / "slide.geojson"
    if name.endswith((".zarr", ".svs", ".dcm")):
        format_of(slide).write(slide, pixels, mpp=0.5, description="")
    else:
        shutil.copy(folder / name, slide)
    shutil.copy(folder / "slide.geojson", labels)
    with Viewer([slide], labels=labels) as viewer:
        client = invited(viewer)
        assert client.get("/about").status_code == 200
        labels.unlink()
        assert client.get("/about").status_code == 200  # the slide is still there
        answer = client.get("/0/nuclei")
        assert answer.status_code == 422 and "slide.geojson" in answer.text
        slide.rename(tmp_path / "moved")
        for path in ("/about", "/0/nuclei", f"/0/tile/{TOP}/0/0", f"/0/counts/{TOP}/0/0"):
            answer = client.get(path)
            assert answer.status_code == 410 and f"{name} was deleted or moved" in answer.text
        assert client.get("/").status_code == 200
        (tmp_path / "moved").rename(slide)
        assert client.get(f"/0/tile/{TOP}/0/0").status_code == 200


def test_it_listens_on_one_address_of_loopback_only(server):
    assert server.socket.getsockname() == ("127.0.0.1", server.port)
    with pytest.raises(ConnectionRefusedError):  # what listens everywhere answers here too
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


def test_the_page_asks_for_its_own_files_only(client):
    page = client.get("/")
    wanted = re.findall(r'(?:src|href)="((?!data:)[^"]+)"', page.text)
    assert sorted(wanted) == ["openseadragon.min.js", "overlay.js", "view.css", "view.js"]
    for name in wanted:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200 and "http-equiv" not in answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]


# The command


def failed(*arguments):
    result = CliRunner().invoke(main, ["view", *map(str, arguments), "--no-browser"])
    assert result.exit_code == 1 and "Traceback" not in result.output
    (line,) = result.output.strip().splitlines()
    return line


def test_mistakes_end_in_one_line(folder, server):
    assert re.search("secret.txt: cannot be read", failed(folder / "secret.txt"))
    assert re.search("secret.txt", failed(folder / "slide.ome.tif", folder / "secret.txt"))
    line = failed(folder / "slide.ome.tif", "--port", server.port)
    assert re.search(rf"port {server.port} .*in use.*--port", line)


def test_the_command_prints_the_address_and_ends_quietly(folder):
    command = [sys.executable, "-m", "nasdm_wsi.cli", "view", folder / "slide.ome.tif"]
    command = [*map(str, command), "--no-browser"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has its children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        address = process.stdout.readline().split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            assert b"<title>nasdm-wsi view</title>" in answer.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and (out, err) == ("", "")


@pytest.mark.skipif(os.name == "nt", reason="has no modes of files")
def test_the_token_reaches_the_browser_by_a_private_file(folder, monkeypatch):
    """All users of a machine can read the words with which a program was started."""
    opened, seen = Queue(), []

    @contextmanager
    def listen(viewer, *, port):
        class Listening:
            host, port = "127.0.0.1", 9

            def serve_forever(self):
                path = Path(unquote(urlparse(opened.get(timeout=PATIENCE)).path))
                seen.append((path, path.read_text(), path.parent.stat().st_mode & 0o077))
                seen.append(viewer.token)

        yield Listening()

    monkeypatch.setattr(app, "serve", listen)
    monkeypatch.setattr("webbrowser.open", opened.put)
    result = CliRunner().invoke(main, ["view", str(folder / "picture.png")])
    assert result.exit_code == 0, result.output
    (path, page, others), token = seen
    assert f"http://127.0.0.1:9/?token={token}" in page and token not in str(path)
    assert others == 0 and not path.exists()
