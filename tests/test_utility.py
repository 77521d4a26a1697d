"""The benchmark of what painted pictures teach a segmenter, on made-up pictures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import labelled_tissue
from PIL import Image
from skimage.measure import label

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SIDE = 160


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two regions of Lizard from two collections, and an unlabelled picture with another stain."""
    data = tmp_path_factory.mktemp("data")
    for folder in ("lizard-regions", "consep-20x/images", "glas/images"):
        (data / folder).mkdir(parents=True)
    for seed, name in enumerate(["crag_1", "dpath_1"]):
        image, _, types = labelled_tissue((SIDE, SIDE), seed=seed)
        Image.fromarray(image).save(data / f"lizard-regions/{name}.png")
        Image.fromarray(types).save(data / f"lizard-regions/{name}_classes.png")
    image, _, _ = labelled_tissue((SIDE, SIDE), seed=2)
    Image.fromarray(image).save(data / "glas/images/a.png")
    (data / "glas/pictures.json").write_text('{"a": {"patient": 1}}')
    return data


def utility(data, work, *options):
    command = [sys.executable, BENCHMARKS / "utility.py", data, work, "--seeds", "1"]
    command += ["--steps", "2", "--batch", "4", "--side", "128", "--layouts", "1", *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_trainings_continue_where_they_stopped(data, tmp_path):
    """A second call performs what is missing; figures are of the collection that is held out."""
    results = tmp_path / "results-2"
    utility(data, tmp_path, "--folds", "dpath", "--kinds", "real")
    first = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    kinds = ["real", "pasted", "painted", "edits"]
    printed = utility("nowhere", tmp_path, "--folds", "dpath", "--kinds", *kinds)

    assert {path: path.stat().st_mtime_ns for path in first} == first
    told = [json.loads(path.read_text()) for path in results.iterdir()]
    assert {result["kind"] for result in told} == set(kinds)
    types = np.array(Image.open(data / "lizard-regions/dpath_1_classes.png"))
    (nuclei,) = {tuple(result["test"]["dpath"]["by_type"]) for result in told}
    assert nuclei == tuple(label(types == k).max() * (k > 0) for k in range(7))
    assert all(f"| {kind} |" in printed for kind in kinds)
    assert (tmp_path / "curve.png").exists()


def test_pasted_nuclei_touch_no_other_and_keep_the_rest(monkeypatch):
    """Outside the pasted nuclei and their rims, pixels and labels are those of the picture."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(BENCHMARKS / "labels")
    from scipy import ndimage
    from utility_pictures import Labelled
    from utility_training import GAP, RIM, pasted

    image, instances, types = labelled_tissue((256, 256), seed=3)
    picture = Labelled("lizard-crag_1", image, types, instances)
    (out,) = pasted([picture], np.random.default_rng(0))
    added = (out.instances > instances.max()) & (instances == 0)
    assert len(np.unique(out.instances[added])) > 3
    assert (out.instances[~added] == instances[~added]).all()
    assert (out.types[~added] == types[~added]).all()
    assert not (ndimage.binary_dilation(added, iterations=GAP) & (instances > 0)).any()
    untouched = ~ndimage.binary_dilation(added, iterations=RIM)
    assert (out.image[untouched] == image[untouched]).all()
    assert (out.image[added] != image[added]).any()
