import math

import pytest
import torch

from nasdm_wsi.model.diffusion import Condition
from nasdm_wsi.model.guidance import guided
from nasdm_wsi.model.samplers import (
    SIGMA_MAX,
    SIGMA_MIN,
    SOLVERS,
    cubic_sigmas,
    dpmpp_2m_step,
    karras_sigmas,
    sample,
    solve,
)

MEAN, SPREAD = 0.3, 0.4
NOTHING = Condition(torch.zeros(1, 8, 1, 1), torch.zeros(1, 6))


def exact(x, sigma, condition):
    """The exact denoiser of pixels that are Gaussian with MEAN and SPREAD."""
    s2 = sigma.view(-1, 1, 1, 1) ** 2
    return (SPREAD**2 * x + s2 * MEAN) / (SPREAD**2 + s2)


def solution(noise):
    """Where the probability-flow equation takes ``SIGMA_MAX * noise`` at sigma 0, exactly."""
    x = SIGMA_MAX * noise.double()
    return MEAN + (x - MEAN) * SPREAD / math.sqrt(SPREAD**2 + SIGMA_MAX**2)


def test_schedule_falls_from_the_highest_noise_to_none():
    sigmas = karras_sigmas(12)
    assert sigmas[0] == pytest.approx(SIGMA_MAX) and sigmas[-2] == pytest.approx(SIGMA_MIN)
    assert sigmas[-1] == 0 and sigmas == sorted(sigmas, reverse=True)
    # equation 5 of Karras and others (2022) at i = 3 of N = 12
    root = SIGMA_MAX ** (1 / 7) + 3 / 11 * (SIGMA_MIN ** (1 / 7) - SIGMA_MAX ** (1 / 7))
    assert sigmas[3] == pytest.approx(root**7)
    assert karras_sigmas(1) == [pytest.approx(SIGMA_MAX), 0]
    assert cubic_sigmas(1) == [pytest.approx(SIGMA_MAX), 0]


def test_cubic_schedule_has_the_same_ends_and_its_smallest_steps_in_the_middle():
    sigmas = cubic_sigmas(8)
    assert sigmas[0] == pytest.approx(SIGMA_MAX) and sigmas[-2] == pytest.approx(SIGMA_MIN)
    falls = [math.log(a / b) for a, b in zip(sigmas[:-2], sigmas[1:-1], strict=True)]
    assert falls[:4] == sorted(falls[:4], reverse=True) and falls[3:] == sorted(falls[3:])
    assert sigmas[-1] == 0 and falls[3] > 0


def test_cubic_schedule_has_golden_values():
    """The levels at which the shipped weights were trained and judged, to nine digits."""
    golden = [
        40,
        10.44674619,
        3.73732808,
        1.614867452,
        0.7430950437,
        0.3210850036,
        0.1148683024,
        0.03,
        0,
    ]
    assert cubic_sigmas(8) == pytest.approx(golden, rel=1e-9)


def test_ancestral_steps_keep_the_spread_of_the_noise_and_of_the_data():
    """With the exact denoiser pixels of a Gaussian come out, and at each step its noisy version."""
    generator = torch.Generator().manual_seed(0)

    def normal(k=0):
        return torch.randn(1, 3, 128, 128, generator=generator)

    sigmas = karras_sigmas(64)
    step = SOLVERS["euler_ancestral"].step
    for k in (0, 20, 62):
        x = 0.7 + sigmas[k] * normal()
        after = step(x, torch.full_like(x, 0.7), x, sigmas=sigmas, k=k, noise=normal())
        assert after.mean().item() == pytest.approx(0.7, abs=0.02 * sigmas[k + 1] + 1e-6)
        assert after.std().item() == pytest.approx(sigmas[k + 1], rel=0.02)
    pixels = sample(exact, normal(), NOTHING, sigmas=sigmas, solver="euler_ancestral", fresh=normal)
    assert pixels.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert pixels.std().item() == pytest.approx(SPREAD, rel=0.1)
    with pytest.raises(ValueError, match="takes noise"):
        sample(exact, normal(), NOTHING, sigmas=sigmas, solver="euler_ancestral")


def test_phases_one_after_another_are_the_loop_in_one():
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sigmas = cubic_sigmas(8)

    def estimate(x, k):
        return exact(x, torch.full((1,), sigmas[k]), None)

    x, previous = noise * sigmas[0], noise
    for k in range(8):
        x, previous = solve(
            estimate, x, previous, solver=SOLVERS["dpmpp_2m"], sigmas=sigmas, steps=[k]
        )
    assert torch.equal(x, sample(exact, noise, NOTHING, sigmas=sigmas))


def test_sampler_approaches_the_exact_solution_at_second_order():
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    errors = [
        (sample(exact, noise, NOTHING, sigmas=karras_sigmas(n)) - solution(noise))
        .abs()
        .max()
        .item()
        for n in (16, 32, 64)
    ]
    assert errors[2] < 2e-3
    assert errors[0] / errors[1] > 2.5 and errors[1] / errors[2] > 2.5


def test_a_step_is_linear_in_its_arrays_and_keeps_a_constant_picture():
    sigmas = karras_sigmas(6)
    picture, noise = torch.tensor(0.7), torch.tensor(1.3)
    for k in range(5):
        x = picture + sigmas[k] * noise
        after = dpmpp_2m_step(x, picture, picture, sigmas=sigmas, k=k)
        assert after == pytest.approx(float(picture + sigmas[k + 1] * noise), rel=1e-5)


def test_guidance_is_equation_7_inside_its_interval_and_free_outside():
    calls = []

    def denoise(x, sigma, condition):
        calls.append(float(condition.planes.sum()))
        return x * 0 + condition.planes.mean()

    condition = Condition(torch.ones(1, 8, 4, 4), torch.zeros(1, 6))
    x = torch.zeros(1, 3, 4, 4)
    strong = guided(denoise, 1.5, interval=(0.5, 2.0))
    assert strong(x, torch.tensor([1.0]), condition).unique().tolist() == [2.5]  # 1 + 1.5 (1 - 0)
    assert len(calls) == 2
    assert strong(x, torch.tensor([3.0]), condition).unique().tolist() == [1.0]
    assert len(calls) == 3
    assert guided(denoise, 0, interval=(0.5, 2.0)) is denoise
    levels = torch.tensor([1.0, 3.0])
    both = Condition(condition.planes.expand(2, -1, -1, -1), condition.style.expand(2, -1))
    assert strong(x.expand(2, -1, -1, -1), levels, both)[:, 0, 0, 0].tolist() == [2.5, 1.0]


def test_a_network_that_guides_itself_is_called_once_and_any_other_scale_is_the_same_picture():
    def denoise(x, sigma, condition):
        return x * 0 + 0.25 + 0.5 * condition.planes.mean()

    condition, x = Condition(torch.ones(1, 8, 4, 4), torch.zeros(1, 6)), torch.zeros(1, 3, 4, 4)
    learnt = guided(denoise, 1.5)
    assert guided(learnt, 1.5, learnt=1.5) is learnt
    for scale in (0.0, 0.7, 3.0):
        wanted = guided(denoise, scale)(x, torch.ones(1), condition)
        assert torch.allclose(
            guided(learnt, scale, learnt=1.5)(x, torch.ones(1), condition), wanted
        )
