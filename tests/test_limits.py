"""Files that mean harm or are broken: each ends in one line, in little time and memory."""

import gzip
import os
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.errors import AnnotationError

FEW = 10_000


def refused(path, **options):
    with pytest.raises(AnnotationError) as caught:
        read_contents(path, mpp=0.5, class_map={"nuclei": "epithelial"}, **options).checked()
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return str(caught.value)


def lizard(path, image):
    scipy.io.savemat(path, {"inst_map": image, "id": [[1]], "class": [[2]]}, do_compression=True)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.png", lambda path, image: Image.fromarray(image).save(path)),
        ("a.tif", tifffile.imwrite),
        ("a.npy", np.save),
        ("a.mat", lizard),
    ],
)
def test_pixels_of_label_images_are_limited(tmp_path, name, save):
    image = np.zeros((101, 100), np.uint8)
    image[10:20, 10:20] = 1
    save(tmp_path / name, image)
    reason = refused(tmp_path / name, max_pixels=FEW)
    assert "101 x 100 pixels are more than 10000: raise `max_pixels`" in reason
    read_contents(tmp_path / name, mpp=0.5, class_map={"nuclei": "plasma"}, max_pixels=FEW + 100)


def test_bytes_of_an_npz_are_limited(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((1000, 1000), np.uint8))
    assert "unpacked are more than" in refused(tmp_path / "a.npz", max_pixels=FEW)


@pytest.mark.parametrize("pack", ["gzip", "zip"])
def test_bytes_of_packed_text_are_limited(tmp_path, pack):
    text = b'{"type": "FeatureCollection", "features": [' + b" " * 10_000_000
    path = tmp_path / "a.geojson.gz"
    if pack == "gzip":
        path.write_bytes(gzip.compress(text))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.geojson", text)
    reason = refused(path, max_pixels=4_000_000)
    assert "unpacked it is larger than 0 MB" in reason and "raise `max_pixels`" in reason
    assert "cut short" in refused(path, max_pixels=80_000_000)


def nested(depth):
    """Well-known binary of collections in collections."""
    return b"\x01\x07\0\0\0\x01\0\0\0" * depth + b"\x01\x07\0\0\0\0\0\0\0"


def store(path, annotations, **values):
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("CREATE TABLE metadata AS SELECT 'compression' AS key, 'null' AS value")
        base.execute(f"CREATE {annotations}", values)
    return path


def test_geometries_without_end_kill_no_command(tmp_path):
    path = store(tmp_path / "a.db", "TABLE annotations (id, objtype, geometry, properties)")
    with closing(sqlite3.connect(path)) as base, base:
        row = (1, "Polygon", nested(200_000), "{}")
        base.execute("INSERT INTO annotations VALUES (?, ?, ?, ?)", row)
    assert "parser was ended by" in refused(path)


@pytest.mark.parametrize("rows", ["SELECT 1 AS id UNION ALL SELECT id FROM n", "SELECT 1 AS id"])
def test_views_are_no_tables(tmp_path, rows):
    query = (
        f"VIEW annotations AS WITH RECURSIVE n AS ({rows}) "
        "SELECT id, 'Polygon' AS objtype, zeroblob(900000000) AS geometry, '{}' AS properties "
        "FROM n"
    )
    assert "there is no table annotations" in refused(store(tmp_path / "a.db", query))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.geojson")
    for path in (tmp_path / "pipe.geojson", Path("/dev/zero")):
        assert "not a regular file" in refused(path)


def test_collections_in_text_without_end(tmp_path):
    path = tmp_path / "a.csv"
    shape = "GEOMETRYCOLLECTION(" * 5000 + "POLYGON ((0 0, 9 0, 9 9, 0 0))" + ")" * 5000
    path.write_text(f'id,geometry\n0,"POLYGON ((0 0, 9 0, 9 9, 0 0))"\n1,"{shape}"\n')
    assert "collections nested too deeply" in refused(path)


def test_zips_of_other_kinds(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.geojson", "{}")
    whole = path.read_bytes()
    for place, value in ((6, 1), (8, 99)):  # with a password; of an unknown compression
        entry = whole.index(b"PK\x01\x02")
        parts = bytearray(whole)
        parts[place] = parts[entry + place + 2] = value
        path.write_bytes(parts)
        assert "cannot be read" in refused(path)


@pytest.mark.slow
def test_thousands_of_damaged_files_are_read_or_refused():
    fuzz = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
    command = [sys.executable, fuzz, "--first", "0", "--seconds", "20"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "refused" in said and "seed" not in said
