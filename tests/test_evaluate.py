"""Measures against independent implementations and by hand."""

import csv

import numpy as np
import pytest
import scipy.linalg
import torch
from click.testing import CliRunner
from helpers import labelled_tissue
from skimage.io import imread, imsave

from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import CheckpointError, DatasetError
from nasdm_wsi.model.evaluation import evaluate as measures
from nasdm_wsi.model.evaluation.agreement import Agreement
from nasdm_wsi.model.evaluation.distances import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from nasdm_wsi.model.evaluation.evaluate import Features, evaluate
from nasdm_wsi.model.evaluation.matching import Matching
from nasdm_wsi.model.evaluation.report import write_report
from nasdm_wsi.tools.dataset import read_regions
from nasdm_wsi.tools.prepare import prepare


def sets(n=300, d=12):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)), rng.normal(size=(n + 7, d)) @ mix * 0.5 + 0.3


def colours(pictures):
    """Features that need no network: means and deviations of the channels."""
    x = pictures.reshape(len(pictures), -1, 3).astype(float)
    features = np.concatenate([x.mean(1), x.std(1)], axis=1)
    return features, np.exp(-features) / np.exp(-features).sum(1, keepdims=True)


def stained(size, *, seed):
    """Tissue whose nuclei are all as dark."""
    _, instances, types = labelled_tissue(size, seed=seed)
    noise = np.random.default_rng(seed).normal(0, 6, (*size, 3))
    image = np.where(types[..., None] > 0, (90, 60, 150), (230, 190, 220)) + noise
    return np.clip(image, 0, 255).astype(np.uint8), instances, types


COLOURS = Features("colours", colours)


def test_frechet_distance_by_the_matrix_root_of_scipy():
    a, b = sets()
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum()
    expected += np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # Fewer pictures than features: covariances without full rank.
    assert frechet_distance(a[:6], b[:6]) > 0


def test_kernel_distance_by_loops_and_unbiased():
    a, b = (x[:20] for x in sets(d=4))

    def k(x, y):
        return (np.dot(x, y) / 4 + 1) ** 3

    def mean(pairs):
        values = [k(x, y) for x, y in pairs]
        return sum(values) / len(values)

    expected = mean((x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j)
    expected += mean((x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j)
    expected -= 2 * mean((x, y) for x in a for y in b)
    assert kernel_distance(a, b) == pytest.approx(expected)
    rng = np.random.default_rng(1)
    draws = [kernel_distance(*rng.normal(size=(2, 30, 3))) for _ in range(300)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 300**0.5


def test_score_of_certain_and_of_equal_guesses():
    assert inception_score(np.eye(7)) == pytest.approx(7)
    assert inception_score(np.full((5, 4), 0.25)) == pytest.approx(1)


def test_precision_and_recall_of_a_part_and_of_strangers():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2))
    half = real[real[:, 0] > 0]
    precision, recall = precision_recall(real, half)
    assert precision == 1 and 0.45 < recall < 0.65
    assert precision_recall(real, real + 50) == (0, 0)


def test_agreement_finds_dark_nuclei_and_tells_strays():
    image, instances, types = stained((160, 200), seed=0)
    agreement = Agreement()
    agreement.add(image, instances, types)
    figures = agreement.figures()
    assert figures["nuclei that are dark"] > 0.95 and figures["dark spots that are nuclei"] == 1
    swapped = Agreement()
    swapped.add(np.roll(image, 10, axis=(0, 1)), instances, types)
    assert swapped.figures()["nuclei that are dark"] < 0.4
    bare = Agreement()
    bare.add(image, np.where(types == 2, 0, instances), np.where(types == 2, 0, types))
    assert bare.figures()["dark spots that are nuclei"] < 0.9


def squares(*corners, side=10, size=(80, 80)):
    """Instances and types of squares at (y, x) of a type."""
    instances, types = np.zeros(size, int), np.zeros(size, np.uint8)
    for k, (y, x, kind) in enumerate(corners, 1):
        instances[y : y + side, x : x + side] = 5 * k
        types[y : y + side, x : x + side] = kind
    return instances, types


def test_matching_by_hand():
    """Of four nuclei one is found exactly, one shifted and as another type, one by its place."""
    truth = squares((0, 0, 2), (20, 20, 3), (40, 40, 3), (60, 60, 2))
    found = squares((0, 0, 2), (22, 20, 6), (45, 40, 3), (0, 60, 2))
    matching = Matching()
    matching.add(*truth, *found)
    figures = matching.figures()
    assert figures["nuclei Dice"] == pytest.approx(2 * (100 + 80 + 50) / 800)
    assert figures["detection F1"] == pytest.approx(2 * 3 / 8)
    assert figures["panoptic quality"] == pytest.approx((1 + 80 / 120) / (2 + 1 + 1))
    assert figures["detected nuclei of the right type"] == pytest.approx(2 / 3)
    assert figures["epithelial F1"] == pytest.approx(2 * 1 / 4)
    assert figures["lymphocyte F1"] == pytest.approx(2 * 1 / 3)
    assert np.isnan(figures["plasma F1"])
    # Where nothing is published, nothing counts.
    hidden = truth[1].copy()
    hidden[60:, 60:] = hidden[:10, 60:] = 255
    without = Matching()
    without.add(truth[0], hidden, *found)
    assert without.figures()["detection F1"] == 1
    perfect = Matching()
    perfect.add(*truth, *truth)
    assert perfect.figures()["panoptic quality"] == perfect.figures()["detection F1"] == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A region whose held-out rectangle has room for patches at 10x."""
    folder = tmp_path_factory.mktemp("large")
    image, _, types = stained((560, 560), seed=3)
    imsave(folder / "a.png", image)
    imsave(folder / "a_classes.png", types, check_contrast=False)
    prepare([folder], folder / "data", held_out=0.4)
    return folder / "data"


def test_real_and_painted_patches_are_of_the_same_places(large, weights, monkeypatch):
    """A painter that gives back the real pixels is at distance nought."""
    monkeypatch.setattr(measures, "paint", lambda region, cut, painter, **_: region.image[cut])
    for magnification, count in ((20, 64), (10, 9)):
        row = evaluate(large, features=COLOURS, weights=weights, magnification=magnification)
        assert row["count"] == count
        assert all(np.array_equal(a, b) for a, b in row["patches"])
        assert row["nuclei that are dark (real)"] == row["nuclei that are dark (painted)"] > 0.9
        assert row["detection F1 (real)"] == row["detection F1 (painted)"]
    row = evaluate(large, features=COLOURS, weights=weights)
    assert row["Fréchet distance (colours)"] == pytest.approx(0, abs=1e-6)
    assert row["precision (colours)"] == row["recall (colours)"] == 1


def test_others_are_real_patches_that_are_not_held_out(large):
    region = next(read_regions(large))
    ((y0, x0, y1, x1),) = region.held_out
    region.image[y0:y1, x0:x1] = 0
    others = measures.patches_elsewhere(region, np.s_[y0:y1, x0:x1], 1)
    assert others and min(patch.min() for patch in others) > 0


def test_worst_is_first_the_rectangle_that_is_least_like_any_real_one(
    tmp_path, weights, monkeypatch
):
    for name, seed in (("a", 3), ("b", 4), ("c", 5)):
        image, _, types = stained((400, 400), seed=seed)
        imsave(tmp_path / f"{name}.png", image)
        imsave(tmp_path / f"{name}_classes.png", types, check_contrast=False)
    prepare([tmp_path], tmp_path / "data", held_out=0.2)

    def paint(region, cut, painter, **_):
        return region.image[cut] // 2 if region.name == "b" else region.image[cut]

    monkeypatch.setattr(measures, "paint", paint)
    row = evaluate(tmp_path / "data", features=COLOURS, weights=weights)
    assert len(row["worst"]) == 3
    alike = [np.array_equal(*row["patches"][k]) for k in row["worst"]]
    assert alike == [False, True, True]


def test_ablation_end_to_end_writes_table_plot_and_pictures(large, weights, tmp_path):
    pytest.importorskip("matplotlib")
    settings = [{"guidance": 0.0}, {"guidance": 2.0}]
    rows = list(
        measures.ablate(large, settings, features=COLOURS, weights=weights, steps=4, device="cpu")
    )
    assert not np.array_equal(rows[0]["patches"][0][1], rows[1]["patches"][0][1])
    write_report(tmp_path / "report", rows)
    with open(tmp_path / "report" / "table.csv") as file:
        table = list(csv.DictReader(file))
    assert [float(r["guidance"]) for r in table] == [0, 2] and float(table[0]["count"]) == 64
    assert imread(tmp_path / "report" / "grid.png").shape == (3 * 132, 8 * 132, 3)
    assert imread(tmp_path / "report" / "plot.png").shape[1] > 500


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript
def test_the_command_prints_the_figures_and_writes_the_report(large, weights, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    command = ["evaluate", large, "-o", tmp_path / "out", "--weights", weights]
    result = CliRunner().invoke(main, [*map(str, command), "--steps", "2", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "Fréchet distance (EfficientNet-Lite0)" in result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "grid.png",
        "table.csv",
        "worst.png",
    ]
    command[-2:] = ["--inception", weights]
    result = CliRunner().invoke(main, [*map(str, command)])
    assert result.exit_code == 1 and "not a TorchScript file of Inception" in result.output


def test_no_room_is_told(dataset, weights):
    with pytest.raises(DatasetError, match="0 patches of 256"):
        evaluate(dataset, features=COLOURS, weights=weights, magnification=10)


def test_efficientnet_has_features_and_classes():
    pytest.importorskip("efficientnet_lite_pytorch")
    features = measures.efficientnet()
    image, *_ = labelled_tissue((128, 128), seed=0)
    with torch.inference_mode():
        measured, probabilities = features.measure(np.stack([image, 255 - image]))
    assert measured.shape == (2, 1280) and probabilities.shape == (2, 1000)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert features.name == "EfficientNet-Lite0"


class Stand(torch.nn.Module):
    """Called as the Inception file is, and as small as can be."""

    def forward(self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        flat = x.float().mean(dim=(2, 3))
        return flat if return_features else flat.softmax(dim=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript is what the file is
def test_inception_is_a_torchscript_file_and_named_so(tmp_path):
    torch.jit.script(Stand()).save(str(tmp_path / "inception.pt"))
    features = measures.inception(tmp_path / "inception.pt")
    measured, probabilities = features.measure(np.full((2, 8, 8, 3), 9, np.uint8))
    assert features.name == "Inception" and (measured == 9).all()
    np.testing.assert_allclose(probabilities, 1 / 3, rtol=1e-6)
    (tmp_path / "bad.pt").write_text("no")
    with pytest.raises(CheckpointError, match="TorchScript"):
        measures.inception(tmp_path / "bad.pt")
