from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from skimage.draw import disk
from skimage.io import imread

from nasdm_wsi.annotations.labels import from_labels, split_touching
from nasdm_wsi.annotations.lizard import read_mat, read_mat_labels
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.errors import AnnotationError

DATA = Path(__file__).parents[2] / "shared" / "data"


def labelled(**changes) -> dict:
    """The fields of a .mat with two nuclei; id 7 stands before id 3."""
    instances = np.zeros((20, 30), np.int32)
    instances[disk((6, 6), 4)], instances[disk((12, 22), 5)] = 3, 7
    fields = {"inst_map": instances, "id": [[7], [3]], "class": [[4], [2]], "bbox": np.eye(4)}
    return {name: v for name, v in (fields | changes).items() if v is not None}


@pytest.fixture
def mat(tmp_path):
    def write(**changes) -> Path:
        savemat(tmp_path / "a.mat", labelled(**changes))
        return tmp_path / "a.mat"

    return write


def test_read_mat_labels(mat):
    instances, types = read_mat_labels(mat())
    assert (instances == labelled()["inst_map"]).all() and instances.dtype == np.int32
    assert (types == np.select([instances == 3, instances == 7], [2, 4])).all()
    assert types.dtype == np.uint8


def test_read_mat(mat):
    nuclei = read_mat(mat())
    assert nuclei.types.tolist() == [2, 4] and nuclei.mpp == 0.5
    instances, types = Conditioning(nuclei, (20, 30)).labels((0, 0, 20, 30))
    assert (types == read_mat_labels(mat())[1]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "'id' is missing: Lizard's fields inst_map, id and class are needed"),
        ({"id": [[7], [4]]}, "1 nuclei of inst_map are missing from id, the first is 3: correct"),
        ({"class": [[4], [9]]}, "each id needs one class from 1 to 6: correct the file"),
        ({"class": [[4]]}, "each id needs one class from 1 to 6: correct the file"),
        ({"id": [[-7], [3]]}, "each id needs one class from 1 to 6: correct the file"),
        ({"inst_map": np.zeros((4, 4), int)}, "no nuclei found: check that inst_map is filled"),
        ({"inst_map": -labelled()["inst_map"]}, "2 nuclei of inst_map are missing from id"),
    ],
)
def test_bad_fields(mat, changes, message):
    path = mat(**changes)
    with pytest.raises(AnnotationError) as caught:
        read_mat(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(AnnotationError, match="no such file: check the path"):
        read_mat(tmp_path / "none.mat")
    (tmp_path / "text.mat").write_text("no\nmat" * 99)
    with pytest.raises(AnnotationError, match="text.mat: not a complete MATLAB file .*: export it"):
        read_mat(tmp_path / "text.mat")
    with pytest.raises(AnnotationError, match="`mpp`"):
        read_mat(tmp_path / "none.mat", mpp=0)


@pytest.mark.parametrize("seed", range(3))
def test_labels_traced_and_rasterised_are_the_same(seed):
    # Noise makes pieces with holes, single pixels and touching corners, up to the border.
    rng = np.random.default_rng(seed)
    types = (rng.random((40, 50)) < 0.6).astype(np.uint8) * rng.integers(1, 3, (40, 50))
    types[12:20, 12:20], types[14:17, 14:17] = 5, 0
    nuclei = from_labels(np.where(types, types + 3, 0), types.astype(np.uint8), mpp=0.5)
    _, again = Conditioning(nuclei, types.shape).labels((0, 0, *types.shape))
    assert (again == types).all()


def test_instances_survive_tracing():
    instances = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((6, 5), int))
    instances[7:10, 6:9] = 0
    by_id = np.arange(13) % 6 + 1
    nuclei = from_labels(instances, by_id, mpp=0.5)
    again, types = Conditioning(nuclei, instances.shape).labels((0, 0, *instances.shape))
    assert (again == instances).all()
    assert (types == np.where(instances, by_id[instances], 0)).all()


def test_touching_nuclei_are_split_and_types_kept_apart():
    types = np.zeros((40, 60), np.uint8)
    types[disk((15, 12), 6)] = types[disk((15, 22), 6)] = 2
    types[disk((15, 34), 6)] = 3
    types[30:, 40:] = 255
    instances = split_touching(types)
    assert ((instances > 0) == np.isin(types, (2, 3))).all()
    assert instances.max() == 3 and len({instances[15, x] for x in (12, 22, 34)}) == 3


def test_one_nucleus_stays_one_and_no_pixel_is_lost():
    rng = np.random.default_rng(0)
    types = np.zeros((30, 30), np.uint8)
    types[disk((15, 15), 8)] = 6
    assert split_touching(types).max() == 1
    noise = (rng.random((50, 50)) < 0.4).astype(np.uint8)
    assert ((split_touching(noise) > 0) == (noise > 0)).all()


def test_real_regions_split_into_nuclei():
    path = DATA / "lizard-regions" / "glas_58_classes.png"
    if not path.exists():
        pytest.skip("needs the Lizard regions")
    areas = np.bincount(split_touching(imread(path)).ravel())[1:]
    assert 60 < np.median(areas) < 150


def test_real_instances_survive_tracing():
    path = DATA / "consep-20x" / "labels" / "train_1.mat"
    if not path.exists():
        pytest.skip("needs CoNSeP")
    instances, types = read_mat_labels(path)
    again, again_types = Conditioning(read_mat(path), types.shape).labels((0, 0, *types.shape))
    assert (again_types == types).all()
    pairs = np.unique(np.stack([again.ravel(), instances.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1]
