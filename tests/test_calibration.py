"""The correction of stain: it undoes known errors, and a network with it reads another style."""

import numpy as np
import torch

from nasdm_wsi.model.calibration import Correction
from nasdm_wsi.model.config import LocalConfig
from nasdm_wsi.model.local_unet import LocalUNet

AMOUNTS = np.random.default_rng(0).uniform(0.05, 0.9, 60)


def painted(told):
    """What a network paints that gets amounts wrong in a known way."""
    return 0.8 * told + 0.03


def test_what_is_painted_with_the_correction_is_what_was_asked_for():
    correction = Correction.of(AMOUNTS, painted(AMOUNTS) - AMOUNTS)
    wanted = AMOUNTS / 2
    np.testing.assert_allclose(painted(correction.scale * wanted + correction.shift), wanted)
    np.testing.assert_allclose(correction.error(wanted), painted(wanted) - wanted)


def test_other_causes_of_an_error_are_not_corrected():
    error = painted(AMOUNTS) - AMOUNTS
    denser = np.random.default_rng(1).normal(size=len(AMOUNTS)) + AMOUNTS
    alone = Correction.of(AMOUNTS, error)
    beside = Correction.of(AMOUNTS, error + 0.4 * denser, denser)
    np.testing.assert_allclose((beside.scale, beside.shift), (alone.scale, alone.shift))


def test_a_corrected_network_reads_the_corrected_style():
    torch.manual_seed(0)
    network = LocalUNet(LocalConfig(widths=(8, 16), blocks=(1, 1), embedding=16))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.style_mean.copy_(torch.linspace(0.1, 0.5, 6))
    network.style_std.copy_(torch.linspace(0.05, 0.2, 6))
    asked = torch.rand(2, 6)
    told = asked.clone()
    told[:, 0] = 1.3 * told[:, 0] - 0.04  # haematoxylin
    x, noise = torch.randn(2, 3, 16, 16), torch.tensor([0.1, -0.5])
    planes = torch.rand(2, network.config.planes, 16, 16)
    before, wanted = (network(x, noise, planes, style) for style in (asked, told))
    Correction(1.3, -0.04).apply(network)
    torch.testing.assert_close(network(x, noise, planes, asked), wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, wanted, atol=1e-2)
