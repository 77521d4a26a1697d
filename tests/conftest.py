"""Small made-up tissue, labelled, in the two layouts that `prepare` reads."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import labelled_tissue
from hypothesis import HealthCheck, settings
from scipy.io import savemat
from skimage.io import imsave

torch.set_num_threads(1)  # the networks of the tests are too small for more
# A shell starts background jobs with Ctrl-C ignored, and the programs that tests start inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples in every run, however slow the machine is.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def lizard_source(tmp_path_factory) -> Path:
    """Lizard's layout: images/NAME.png and labels/NAME.mat."""
    folder = tmp_path_factory.mktemp("lizard")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for seed, name in enumerate(["a", "b"]):
        image, instances, types = labelled_tissue((160, 200), seed=seed)
        ids = np.unique(instances)[1:]
        _, first = np.unique(instances, return_index=True)
        imsave(folder / "images" / f"{name}.png", image)
        savemat(
            folder / "labels" / f"{name}.mat",
            {"inst_map": instances, "id": ids[:, None], "class": types.flat[first[1:]][:, None]},
        )
    return folder


@pytest.fixture(scope="session")
def region_source(tmp_path_factory) -> Path:
    """Region images with type maps; a corner is unpublished and black."""
    folder = tmp_path_factory.mktemp("regions")
    image, _, types = labelled_tissue((180, 150), seed=7)
    image[:60, :60], types[:60, :60] = 0, 255
    imsave(folder / "c.png", image)
    imsave(folder / "c_classes.png", types, check_contrast=False)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, lizard_source, region_source) -> Path:
    """Both sources, prepared."""
    from nasdm_wsi.tools.prepare import prepare

    out = tmp_path_factory.mktemp("prepared") / "dataset"
    prepare([lizard_source, region_source], out)
    return out


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A tiny network with random weights, none of them zero: quick, and sensitive to everything."""
    from nasdm_wsi.checkpoints import Training
    from nasdm_wsi.model.checkpoint import save_weights
    from nasdm_wsi.model.config import PRESETS
    from nasdm_wsi.model.local_unet import LocalUNet

    torch.manual_seed(0)
    network = LocalUNet(PRESETS["tiny"].network)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, network, training=Training(preset="tiny"))
    return path


@pytest.fixture(scope="session")
def fitting_weights(tmp_path_factory) -> Path:
    """A tiny network that takes regions and known pixels; no weight is zero."""
    from nasdm_wsi.checkpoints import Training
    from nasdm_wsi.model.checkpoint import save_weights
    from nasdm_wsi.model.config import PRESETS
    from nasdm_wsi.model.families import build
    from nasdm_wsi.model.planes import ALL_PLANES

    torch.manual_seed(0)
    network = build(PRESETS["tiny-regions"].network)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("fitting") / "tiny.safetensors"
    save_weights(path, network, training=Training(preset="tiny-regions"), planes=ALL_PLANES)
    return path


@pytest.fixture(scope="session")
def annotations(tmp_path_factory) -> Path:
    """A QuPath GeoJSON at 0.25 mpp: nuclei of all types in 400 x 300 pixels, some glass below."""
    import json

    rng = np.random.default_rng(0)
    features = [_feature("annotation", "Tissue", [(0, 0), (400, 0), (400, 240), (0, 240)])]
    names = ["Neutrophil", "Epithelial", "Lymphocyte", "Plasma", "Eosinophil", "Connective"]
    for i, (x, y) in enumerate((x, y) for y in range(25, 220, 40) for x in range(25, 390, 40)):
        angle = np.arange(0, 2 * np.pi, 0.4)
        radius = rng.uniform(10, 16)
        ring = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)
        features.append(_feature("detection", names[i % 6], ring.round(2).tolist()))
    path = tmp_path_factory.mktemp("annotations") / "nuclei.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def _feature(kind: str, name: str, ring: list) -> dict:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {"objectType": kind, "classification": {"name": name, "color": [9, 9, 9]}},
    }
