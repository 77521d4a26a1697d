from pathlib import Path

import numpy as np
import pytest
import torch

from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.types import PLANES
from nasdm_wsi.model.checkpoint import SHIPPED, load_weights
from nasdm_wsi.model.config import PRESETS, LocalConfig
from nasdm_wsi.model.diffusion import Condition, Denoiser
from nasdm_wsi.model.local_unet import LocalUNet, measured_halo
from nasdm_wsi.model.samplers import karras_sigmas, sample
from nasdm_wsi.rendering import read_annotations

BLOCK = 32
EXAMPLE = Path(__file__).parents[1] / "examples" / "annotations.geojson"


def awake(config):
    """A network in which nothing is zero, as after training."""
    torch.manual_seed(0)
    network = LocalUNet(config)
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["tiny", "small"])
def network(request):
    return awake(PRESETS[request.param].network)


def run(network, x, mask):
    style, noise = torch.full((1, 6), 0.3), torch.tensor([-0.2])
    return network(x, noise, mask, style)


def canvas(network, extra=16):
    side = BLOCK + 2 * (network.halo + extra)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, side, side, generator=generator)
    mask = torch.rand(1, network.config.planes, side, side, generator=generator).round()
    return x, mask, slice(network.halo + extra, network.halo + extra + BLOCK)


def test_a_block_with_its_halo_equals_the_same_pixels_of_a_larger_canvas(network):
    x, mask, block = canvas(network)
    whole = run(network, x, mask)[..., block, block]
    h = network.halo
    window = slice(block.start - h, block.stop + h)
    alone = run(network, x[..., window, window], mask[..., window, window])[..., h:-h, h:-h]
    assert (alone - whole).abs().max() < 1e-4


@pytest.mark.parametrize("preset", ["small", "tiny-regions", "tiny"])
@pytest.mark.parametrize("cells", [(1, 1, 1, 1), (0, 3, 9, 0), (11, 2, 0, 12), (4, 10, 11, 5)])
def test_leaving_out_context_changes_no_bit_that_matters(preset, cells):
    """In double precision, with more context than the receptive field, with less, and without."""
    network = awake(PRESETS[preset].network).double()
    top, left, bottom, right = context = tuple(n * network.grid for n in cells)
    h, w = (sum(context[k::2]) + 4 * network.grid for k in (0, 1))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, h, w, generator=generator, dtype=float)
    mask = torch.rand(1, network.config.planes, h, w, generator=generator).round().double()
    noise, style = torch.tensor([-0.2], dtype=float), torch.full((1, 6), 0.3, dtype=float)
    whole = network(x, noise, mask, style)[..., top : h - bottom, left : w - right]
    torch.testing.assert_close(network(x, noise, mask, style, context), whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("side", ["top", "left", "bottom", "right"])
def test_the_receptive_field_ends_where_it_says_and_not_one_pixel_earlier(network, side):
    """A pixel that is not a number poisons all that depends on it, however little it weighs."""
    x, mask, block = canvas(network)

    def poisoned(distance):
        at = block.start - distance if side in ("top", "left") else block.stop - 1 + distance
        there = (..., at, slice(None)) if side in ("top", "bottom") else (..., slice(None), at)
        y = x.clone()
        y[there] = float("nan")
        return run(network, y, mask)[..., block, block].isnan().any()

    field = network.receptive_field
    assert field <= network.halo
    assert not poisoned(field + 1)
    assert poisoned(field)


def test_one_pixel_less_of_halo_fails():
    """In a shallow network, whose outermost ring still shows in the numbers themselves."""
    network = awake(LocalConfig((8,), (1,), 16))
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0, 0.2)
    x, mask, block = canvas(network)
    whole = run(network, x, mask)[..., block, block]

    def error(halo):
        seen, inner = torch.zeros_like(x), slice(block.start - halo, block.stop + halo)
        seen[..., inner, inner] = x[..., inner, inner]
        return (run(network, seen, mask)[..., block, block] - whole).abs().max()

    assert error(network.receptive_field) < 1e-4 < error(network.receptive_field - 1)


def test_the_measured_halo_is_shorter_and_long_enough_for_the_shipped_weights():
    """On nuclei of the example, with a picture under the noise, at all noise levels.

    The bound is an eighth of a grey level.
    """
    network, header = load_weights(SHIPPED)
    denoise, full = Denoiser(network), network.halo
    assert header.halo == measured_halo(network) < full
    side = 32 + 2 * full
    conditioning = Conditioning(read_annotations(EXAMPLE, mpp=0.5), (1536, 1536))
    planes = np.zeros((len(header.planes), side, side), np.float32)  # regions and pixels unknown
    planes[: len(PLANES)] = conditioning.planes(PLANES, (480, 480, 480 + side, 480 + side))
    mask, style = torch.from_numpy(planes)[None], network.style_mean[None]
    noise = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    picture = sample(denoise, noise[:1], Condition(mask, style), sigmas=karras_sigmas(4))

    def block(halo, sigma):
        cut = slice(full - halo, side - full + halo)
        x = (picture + sigma * noise[1:])[..., cut, cut]
        out = denoise(x, torch.tensor([sigma]), Condition(mask[..., cut, cut], style))
        return out[..., halo:-halo, halo:-halo]

    for sigma in (40.0, 4.0, 1.0, 0.2, 0.03):
        assert (block(header.halo, sigma) - block(full, sigma)).abs().max() < 1e-3


def test_style_and_mask_reach_the_output(network):
    x, mask, _ = canvas(network, extra=0)
    noise = torch.tensor([-0.2])
    plain = network(x, noise, mask, torch.full((1, 6), 0.3))
    assert (network(x, noise, mask, torch.full((1, 6), 0.5)) - plain).abs().max() > 1e-3
    assert (network(x, noise, mask * 0, torch.full((1, 6), 0.3)) - plain).abs().max() > 1e-3
