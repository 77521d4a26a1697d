"""What training tells of regions, of known pixels and of nuclei with pseudo-labels."""

import json

import numpy as np
import pytest
import torch
from helpers import labelled_tissue
from PIL import Image

from nasdm_wsi.annotations.types import PLANES
from nasdm_wsi.model.checkpoint import load_weights
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.planes import ALL_PLANES, PIXELS, REGIONS
from nasdm_wsi.model.training.data import Batches, Crops
from nasdm_wsi.model.training.train import train
from nasdm_wsi.tools.prepare import prepare

SIZE, COUNT = (120, 160), 60
MUCUS = REGIONS.index("mucus") + 1
NAMES = {name: k for k, name in enumerate(ALL_PLANES)}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A dataset of one picture for each origin of the nuclei; mucus lies where they are."""
    folder = tmp_path_factory.mktemp("partial")
    image, instances, types = labelled_tissue(SIZE, seed=0)
    Image.fromarray(image).save(folder / "a.png")
    np.savez(folder / "a.npz", instances=instances, types=types)
    Image.fromarray(np.where(types > 0, MUCUS, 0).astype(np.uint8)).save(folder / "regions.png")
    row = {"image": "a.png", "regions": "regions.png"}
    rows = {
        "published": {"nuclei": "a.npz"},
        "pseudo": {"nuclei": "a.npz", "pseudo": "nuclei regions"},
        "none": {},
    }
    for name, labels in rows.items():
        (folder / f"{name}.json").write_text(json.dumps([row | labels]))
        prepare([folder / f"{name}.json"], folder / name, held_out=0.01)
    return {name: folder / name for name in rows}


def planes(dataset, names=ALL_PLANES):
    crops = Crops(dataset, crop=32, planes=names)
    return [crops[i] for i in range(COUNT)]


def test_regions_are_told_where_they_lie_or_not_at_all(datasets):
    samples = planes(datasets["published"])
    known = torch.stack([s.planes[NAMES["regions known"]] for s in samples])
    mucus = torch.stack([s.planes[NAMES["mucus"]] for s in samples])
    nuclei = torch.stack([s.planes[:6].sum(0) for s in samples])
    assert torch.equal(mucus, known) and torch.equal(known, known * nuclei)
    share = known.sum((1, 2)) / nuclei.sum((1, 2))
    assert (share == 0).float().mean() > 0.2 and (share == 1).float().mean() > 0.2


def test_pseudo_labels_of_nuclei_are_sometimes_unknown_and_published_ones_never(datasets):
    shares = {}
    for name, dataset in datasets.items():
        told = torch.stack([s.planes[: len(PLANES)] for s in planes(dataset)])
        known = told[:, PLANES.index("nuclei known")].amax((1, 2)) > 0
        assert not told[~known].any() and told[known].any() == known.any()
        shares[name] = known.float().mean().item()
    assert shares["published"] == 1 and shares["none"] == 0
    assert 0.4 < shares["pseudo"] < 0.9


def test_known_pixels_are_those_of_the_sample(datasets):
    samples = planes(datasets["none"])
    values = torch.stack([s.planes[[NAMES[name] for name in PIXELS]] for s in samples])
    pixels = torch.stack([s.pixels for s in samples])
    assert torch.equal(values[:, 1:], values[:, :1] * pixels)
    assert 0 < values[:, 0].mean() < 0.4


def test_a_sample_is_a_function_of_its_number_and_less_is_asked_of_other_networks(datasets):
    first, again = (
        planes(datasets["pseudo"])[7],
        Crops(datasets["pseudo"], crop=32, planes=ALL_PLANES)[7],
    )
    assert torch.equal(first.planes, again.planes)
    plain = planes(datasets["published"], PLANES)[7]
    assert plain.planes.shape[0] == len(PLANES)
    assert torch.equal(plain.pixels, planes(datasets["published"])[7].pixels)
    batch = Batches(Crops(datasets["published"], crop=32), seed=0, dropout=0, planes=ALL_PLANES)
    assert not batch[range(2)].condition.pick(*REGIONS, *PIXELS).any()


def test_a_preset_with_regions_trains_on_them(datasets, tmp_path, monkeypatch):
    """The same pictures without regions give another network."""
    weights = {}
    for name in ("a", "b"):
        if name == "b":
            monkeypatch.setattr("nasdm_wsi.model.training.forgetting.NO_REGIONS", 1.0)
        path = train(datasets["published"], tmp_path / name, preset="tiny-regions", images=16)
        network, header = load_weights(path)
        assert header.planes == PRESETS["tiny-regions"].planes
        weights[name] = network.state_dict()["stem.weight"]
    assert not torch.equal(weights["a"], weights["b"])
