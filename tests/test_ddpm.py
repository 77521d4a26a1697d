"""The paper's diffusion against diffusers' schedulers and against direct numerical integrals."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.ddpm import (
    ancestral_step,
    clean,
    hybrid_loss,
    linear_schedule,
    log_variance,
    noised,
    posterior_mean,
    sample_ancestral,
    variational_bound,
)
from nasdm_wsi.model.diffusion import Condition, NoisePredictor
from nasdm_wsi.model.families import build
from nasdm_wsi.model.guidance import guided
from nasdm_wsi.model.samplers import ddim_step, dpmpp_2m_step

SHAPE = (2, 3, 8, 8)
LINEAR = {"num_train_timesteps": 1000, "beta_schedule": "linear", "timestep_spacing": "linspace"}


def normal(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(x, t, condition=None):
    """Smooth made-up outputs: noise like a network's, and a variance between its bounds."""
    level = t.double()[:, None, None, None] / 1000
    return torch.cat([torch.tanh(x + level) * 0.9, torch.sin(3 * x - level)], dim=1)


def test_the_schedule_is_that_of_diffusers():
    ours, theirs = linear_schedule(), DDPMScheduler(**LINEAR)
    np.testing.assert_allclose(ours.alpha_bar, theirs.alphas_cumprod, rtol=1e-5)
    np.testing.assert_allclose(ours.beta, theirs.betas, rtol=1e-4)
    x0, noise, t = normal(0), normal(1), torch.tensor([3, 700])
    expected = theirs.add_noise(x0, noise, t)
    np.testing.assert_allclose(noised(ours, x0, t, noise), expected, atol=1e-5)
    np.testing.assert_allclose(clean(ours, noised(ours, x0, t, noise), t, noise), x0, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 18, 250, 1000])
def test_respacing_keeps_the_ends_and_what_is_left_of_the_signal(count):
    full = linear_schedule()
    few = full.respaced(count)
    assert len(few) == count and few.steps[0] == 0
    assert count == 1 or few.steps[-1] == 999
    np.testing.assert_allclose((1 - few.beta).cumprod(0), full.alpha_bar[few.steps])
    theirs = DDPMScheduler(**LINEAR)
    theirs.set_timesteps(count)
    np.testing.assert_array_equal(few.steps.flip(0), theirs.timesteps)


@pytest.mark.parametrize("count", [18, 1000])
def test_ancestral_sampling_follows_diffusers(count):
    theirs = DDPMScheduler(**LINEAR, variance_type="learned_range", clip_sample=True)
    theirs.set_timesteps(count)
    # In float64: its own schedule is float32, which shows after a thousand steps.
    theirs.alphas_cumprod, theirs.one = linear_schedule().alpha_bar, torch.tensor(1.0).double()
    schedule, x = linear_schedule().respaced(count), normal(0)
    ours = x
    for k, t in zip(reversed(range(count)), theirs.timesteps, strict=True):
        at, generator = t.expand(2), torch.Generator().manual_seed(k)
        drawn = torch.randn(SHAPE, generator=torch.Generator().manual_seed(k), dtype=x.dtype)
        ours = ancestral_step(schedule, ours, network(ours, at), drawn, k)
        x = theirs.step(network(x, at), t, x, generator=generator).prev_sample
        assert (ours - x).abs().max() < 1e-5


def trajectory(scheduler, count, x):
    scheduler.set_timesteps(count)
    for t in scheduler.timesteps:
        eps = network(x, t.expand(2)).chunk(2, dim=1)[0]
        x = scheduler.step(eps, t, x).prev_sample
        yield x


def ours(step, count, x):
    """The same on our side: steps on unshrunk pixels, whose noise has the spread sigma."""
    schedule = linear_schedule().respaced(count)
    sigmas = [*schedule.sigmas.flip(0).tolist(), 0.0]
    x, previous = x * math.sqrt(1 + sigmas[0] ** 2), x
    for k, t in enumerate(schedule.steps.flip(0)):
        shrunk = x / math.sqrt(1 + sigmas[k] ** 2)
        x0 = x - sigmas[k] * network(shrunk, t.expand(2)).chunk(2, dim=1)[0]
        x, previous = step(x, x0, previous, sigmas=sigmas, k=k), x0
        yield x / math.sqrt(1 + sigmas[k + 1] ** 2)


@pytest.mark.parametrize("count", [5, 18])
def test_ddim_follows_diffusers(count):
    theirs = DDIMScheduler(**LINEAR, clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(count)
    # diffusers steps back by T // count, which is not the next of its own linspace steps.
    schedule = linear_schedule().respaced(count)
    theirs.alphas_cumprod = schedule.alpha_bar
    theirs.num_inference_steps = theirs.config.num_train_timesteps  # one index a step
    x, mine = normal(0), list(ours(ddim_step, count, normal(0)))
    for k, expected in zip(reversed(range(count)), mine, strict=True):
        eps = network(x, schedule.steps[k].expand(2)).chunk(2, dim=1)[0]
        x = theirs.step(eps, k, x).prev_sample
        assert (x - expected).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize("count", [5, 18, 50])
def test_dpm_solver_follows_diffusers(count):
    theirs = DPMSolverMultistepScheduler(
        **LINEAR, algorithm_type="dpmsolver++", solver_order=2, lower_order_final=False
    )
    # diffusers leaves out the first of count + 1 steps: its own noise levels are used.
    theirs.set_timesteps(count)
    sigmas, steps = theirs.sigmas.double().tolist(), theirs.timesteps
    assert sigmas[-1] == 0
    x = normal(0) * math.sqrt(1 + sigmas[0] ** 2)
    previous = x
    for k, expected in enumerate(trajectory(theirs, count, normal(0))):
        shrunk = x / math.sqrt(1 + sigmas[k] ** 2)
        x0 = x - sigmas[k] * network(shrunk, steps[k].expand(2)).chunk(2, dim=1)[0]
        x, previous = dpmpp_2m_step(x, x0, previous, sigmas=sigmas, k=k), x0
        error = (x / math.sqrt(1 + sigmas[k + 1] ** 2) - expected).abs().max()
        assert error < 1e-5 * expected.abs().max()  # diffusers steps in float32


def test_the_bound_is_the_numerical_divergence():
    """KL of two Gaussians by quadrature, in float64, for one value at a time."""
    schedule = linear_schedule()
    x0, k = normal(0, (6, 3, 1, 1)).clamp(-1, 1), torch.tensor([1, 2, 10, 200, 700, 999])
    x = noised(schedule, x0, k, normal(1, x0.shape))
    outputs = network(x, k)
    bound = variational_bound(schedule, outputs, x0, x, k) * math.log(2)
    eps, v = outputs.chunk(2, dim=1)
    for i in range(len(k)):
        at = k[i : i + 1]
        q_mean = posterior_mean(schedule, x0[i : i + 1], x[i : i + 1], at).flatten()
        p_mean = posterior_mean(
            schedule, clean(schedule, x[i : i + 1], at, eps[i : i + 1]), x[i : i + 1], at
        ).flatten()
        beta, before = schedule.beta[k[i]], schedule.alpha_bar_before[k[i]]
        q_var = beta * (1 - before) / (1 - schedule.alpha_bar[k[i]])
        p_std = (log_variance(schedule, v[i : i + 1], at) / 2).exp().flatten()
        z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
        total = 0.0
        for channel in range(3):
            point = q_mean[channel] + q_var.sqrt() * z
            log_q = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
            log_p = torch.distributions.Normal(p_mean[channel], p_std[channel]).log_prob(point)
            integrand = log_q.exp() * (log_q - q_var.sqrt().log() - log_p)
            total += torch.trapezoid(integrand, z).item()
        assert bound[i].item() == pytest.approx(total / 3, rel=1e-6)


def test_the_last_term_is_the_likelihood_of_8_bit_pixels():
    """The likelihoods of all 256 levels sum to one; far from the mean little is left."""
    schedule, k = linear_schedule(), torch.zeros(256, dtype=torch.long)
    x0 = (torch.arange(256, dtype=torch.float64) / 127.5 - 1)[:, None, None, None].expand(
        -1, 3, 1, 1
    )
    x = torch.full_like(x0, 0.2)
    outputs = torch.cat([torch.zeros_like(x), torch.ones_like(x)], dim=1)
    bits = variational_bound(schedule, outputs, x0, x, k)
    assert (2.0**-bits).sum().item() == pytest.approx(1, abs=1e-6)
    assert bits.argmin() == 153  # the level nearest to 0.2


def test_the_hybrid_loss_teaches_noise_and_variance_apart():
    """The bound moves the variance and not the noise; both losses add up with their weights."""
    schedule = linear_schedule()
    outputs = torch.zeros(2, 6, 8, 8, requires_grad=True)
    x0, noise, k = normal(0).float().clamp(-1, 1), normal(1).float(), torch.tensor([5, 500])
    loss = hybrid_loss(lambda x, t, c: outputs, schedule, x0, k, torch.zeros(2), noise)
    x = noised(schedule, x0, k, noise)
    bound = variational_bound(schedule, outputs, x0, x, k)
    expected = noise.square().mean(dim=(1, 2, 3)) + 0.001 * 1000 * bound
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    torch.testing.assert_close(gradient[:, :3], -2 * noise / noise[0].numel())
    assert gradient[:, 3:].abs().max() > 0


def test_ancestral_sampling_of_an_exact_network_gives_the_data():
    """Pixels that are Gaussian about 0.3: the exact noise is known, so are mean and spread."""
    schedule = linear_schedule().respaced(250)

    def exact(x, t, condition):
        a = linear_schedule().alpha_bar[t][:, None, None, None]
        eps = (1 - a).sqrt() * (x - a.sqrt() * 0.3) / (a * 0.1**2 + 1 - a)
        return torch.cat([eps, torch.zeros_like(eps)], dim=1)

    pixels = sample_ancestral(
        exact, lambda k: normal(k, (16, 3, 16, 16)), torch.zeros(16), schedule=schedule
    )
    assert pixels.mean().item() == pytest.approx(0.3, abs=0.01)
    assert pixels.std().item() == pytest.approx(0.1, rel=0.05)


def test_guidance_of_a_whole_trajectory_is_equation_7():
    """The published default on a network whose noise depends on its condition."""
    predictor = NoisePredictor(build(PRESETS["nasdm-tiny"].network).eval())
    for name, parameter in predictor.named_parameters():
        generator = torch.Generator().manual_seed(len(name))
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    mask = torch.rand(1, 8, 16, 16, generator=torch.Generator().manual_seed(3)).round()
    condition, schedule = Condition(mask, torch.zeros(1, 6)), linear_schedule().respaced(6)

    def by_hand(x, t, _):
        mine = predictor.network(x, t, mask[:, :7])
        null = predictor.network(x, t, torch.zeros_like(mask[:, :7]))
        eps = mine[:, :3] + 1.5 * (mine[:, :3] - null[:, :3])
        return torch.cat([eps, mine[:, 3:]], dim=1)

    def noise(k):
        return normal(k, (1, 3, 16, 16)).float()

    ours = guided(predictor.outputs, 1.5, interval=(0, 1000))
    a = sample_ancestral(ours, noise, condition, schedule=schedule)
    torch.testing.assert_close(a, sample_ancestral(by_hand, noise, None, schedule=schedule))
    plain = sample_ancestral(predictor.outputs, noise, condition, schedule=schedule)
    assert (a - plain).abs().max() > 1e-3


def test_guidance_moves_the_noise_and_leaves_the_variance():
    class Mask:
        def __init__(self, value):
            self.value = value

        def null(self):
            return Mask(0.0)

    def outputs(x, t, condition):
        return torch.ones(1, 6, 2, 2) * condition.value

    strong = guided(outputs, 1.5, interval=(0, 1000))
    out = strong(torch.zeros(1, 3, 2, 2), torch.tensor([10]), Mask(2.0))
    assert out[:, :3].unique().tolist() == [5.0]  # 2 + 1.5 (2 - 0)
    assert out[:, 3:].unique().tolist() == [2.0]
