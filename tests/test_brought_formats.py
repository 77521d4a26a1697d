"""Files that people bring, made here as their tools write them: read, or named with the way out."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from click.testing import CliRunner
from helpers import labelled_tissue
from scipy.io import savemat

from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError, NasdmError
from nasdm_wsi.tools.info import describe

SIZE = (64, 84)
_, INSTANCES, KINDS = labelled_tissue(SIZE, seed=3)
COUNT = int(INSTANCES.max())
NUMBERS = np.array([KINDS[INSTANCES == k][0] for k in range(1, COUNT + 1)])
NAMES = [TYPES[number].capitalize() for number in NUMBERS]
BY_NUMBER = {f"{number}": name for number, name in enumerate(TYPES) if number}
CLASSES = {**BY_NUMBER, "nuclei": "epithelial", "unclassified": "epithelial"}


def labels(nuclei: Nuclei) -> tuple[np.ndarray, np.ndarray]:
    return Conditioning(nuclei, SIZE).labels((0, 0, *SIZE))


def assert_exact(nuclei: Nuclei) -> None:
    """Every pixel of the label image is back, with its type."""
    found, types = labels(nuclei)
    np.testing.assert_array_equal(types, KINDS)
    np.testing.assert_array_equal(found > 0, INSTANCES > 0)
    assert len(nuclei) == COUNT


def assert_covers(nuclei: Nuclei) -> None:
    """Every pixel of a nucleus is back, in files that know no types."""
    np.testing.assert_array_equal(labels(nuclei)[0] > 0, INSTANCES > 0)
    assert len(nuclei) == COUNT


def read(path: Path, **options) -> Nuclei:
    return read_contents(path, **{"mpp": 0.5, "class_map": CLASSES, **options}).checked()


# MATLAB


def hovernet_mat(path: Path, **changes) -> Path:
    """As HoVer-Net's tile mode writes it; the order of its nuclei is not that of their numbers."""
    order = np.random.default_rng(0).permutation(COUNT)
    fields = {
        "inst_map": INSTANCES,
        "inst_uid": order[:, None] + 1,
        "inst_type": NUMBERS[order][:, None],
        "inst_centroid": np.zeros((COUNT, 2)),
    }
    savemat(path, {k: v for k, v in {**fields, **changes}.items() if v is not None})
    return path


def consep_mat(path: Path) -> Path:
    """As CoNSeP has it: numbers as float64, and a map of types."""
    centroids, types = np.zeros((COUNT, 2)), NUMBERS[:, None].astype(float)
    maps = {"inst_map": INSTANCES.astype(float), "type_map": KINDS.astype(float)}
    savemat(path, {**maps, "inst_type": types, "inst_centroid": centroids})
    return path


def test_matlab_files_of_hovernet_and_consep_are_read_with_numbers_as_classes(tmp_path):
    for path in (hovernet_mat(tmp_path / "h.mat"), consep_mat(tmp_path / "c.mat")):
        assert_exact(read(path))
        with pytest.raises(AnnotationError, match="no nucleus type is known for class '2'.*'1'"):
            read(path, class_map=None)


def test_hovernet_without_types_knows_one_class(tmp_path):
    assert_covers(read(hovernet_mat(tmp_path / "h.mat", inst_type=None, inst_uid=None)))


def test_types_that_do_not_fit_a_matlab_file_are_refused(tmp_path):
    path = hovernet_mat(tmp_path / "h.mat", inst_type=NUMBERS[:-1, None])
    with pytest.raises(AnnotationError, match=r"h.mat: inst_map and the types do not fit \("):
        read(path)


# Arrays of NumPy


def test_npz_of_labels_is_read(tmp_path):
    np.savez(tmp_path / "one.npz", anything=INSTANCES)
    np.savez_compressed(tmp_path / "named.npz", labels=INSTANCES, prob=np.zeros(SIZE, int))
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.csr_matrix(INSTANCES))
    np.savez(tmp_path / "lizard.npz", np.stack([INSTANCES, KINDS], -1))
    for name in ("one", "named", "sparse"):
        assert_covers(read(tmp_path / f"{name}.npz"))
    assert_exact(read(tmp_path / "lizard.npz", mpp=None))


def test_npz_of_several_arrays_names_them(tmp_path):
    np.savez(tmp_path / "two.npz", a=INSTANCES, b=INSTANCES)
    with pytest.raises(AnnotationError, match="which of the arrays a, b holds the labels"):
        read(tmp_path / "two.npz")


# What is not read


def zipped(path: Path, entry: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr(entry, "<x/>")
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def seg_npy(path: Path) -> Path:
    np.save(path, np.array({"masks": INSTANCES}, dtype=object), allow_pickle=True)
    return path


def unread(folder: Path) -> list[tuple[Path, str]]:
    """Files with what is said about them."""
    return [
        (seg_npy(folder / "a_seg.npy"), "a pickle as Cellpose's _seg.npy.*numpy.save"),
        (written(folder / "a.dat", pickle.dumps({})), "a pickle as TIAToolbox's .dat"),
        (zipped(folder / "a.xlsx", "xl/workbook.xml"), "an Excel workbook.*save it as CSV"),
        (zipped(folder / "a.docx", "word/document.xml"), "a Word document"),
        (written(folder / "a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1"), "Excel or another Office"),
        (written(folder / "a.pdf", b"%PDF-1.7\n"), "a PDF.*as GeoJSON"),
        (written(folder / "a.qpdata", b"\xac\xed\0\x05"), "QuPath's own data file"),
        (written(folder / "b.mat", b"MATLAB 7.3 MAT-file"), "version 7.3.*option -v7"),
        (written(folder / "a.h5", b"\x89HDF\r\n\x1a\n"), "an HDF5 file"),
        (written(folder / "a.7z", b"7z\xbc\xaf\x27\x1c"), "packed by 7-Zip.*unpack it"),
        (written(folder / "a.geojson", b"<!DOCTYPE html><html>"), "a web page"),
        (written(folder / "a.svs", b"version https://git-lfs.github.com"), "run git lfs pull"),
        (written(folder / "a_cp_outlines.txt", b"1,2,3,4,5,6\n7,8,9,1,2,3\n"), "as Cellpose's"),
    ]


def test_what_is_not_read_is_named_with_the_way_out(tmp_path):
    for path, words in unread(tmp_path):
        for reading in (lambda: describe(path), lambda: read(path)):  # noqa: B023
            with pytest.raises(AnnotationError, match=f"^{path}: [^\n]*{words}[^\n]*$"):
                reading()


# One decision on what a file is


def readable(folder: Path) -> list[Path]:
    """A small file of each kind that is read."""
    np.save(folder / "labels.npy", INSTANCES)
    np.savez(folder / "labels.npz", INSTANCES)
    (folder / "q.txt").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    return [
        hovernet_mat(folder / "h.mat"),
        consep_mat(folder / "c.mat"),
        *(folder / name for name in ("labels.npy", "labels.npz", "q.txt")),
    ]


def test_info_and_render_agree_on_what_a_file_is(tmp_path):
    for path in (*readable(tmp_path), *(path for path, _ in unread(tmp_path))):
        told, kind = kind_of_info(path), kind_of_render(path)
        assert told == kind, path


def kind_of_info(path: Path) -> str:
    try:
        return dict(describe(path))["kind"]
    except NasdmError as error:
        return f"{error}"


def kind_of_render(path: Path) -> str:
    try:
        return f"annotations, {read_contents(path, mpp=0.5).kind}"
    except NasdmError as error:
        return f"{error}"


def test_a_misnamed_file_is_known_by_its_contents(tmp_path):
    misnamed = hovernet_mat(tmp_path / "h.mat").rename(tmp_path / "h.geojson")
    result = CliRunner().invoke(main, ["info", str(misnamed)])
    assert "HoVer-Net or CoNSeP labels" in result.output
