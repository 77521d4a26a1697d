"""Seams: slides that have them are found out, slides that have none are not."""

import json
from dataclasses import astuple

import numpy as np
import pytest
from click.testing import CliRunner
from skimage.color import rgb_from_hed

from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import SlideError
from nasdm_wsi.geometry import Plan, cells_in
from nasdm_wsi.provenance import WARNING
from nasdm_wsi.rendering import plan_render, read_annotations
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides.reading import open_slide
from nasdm_wsi.tools.seam_lines import Grid, rendered_grid
from nasdm_wsi.tools.seams import measure_seams

SIZE = (1400, 1400)
LUMA = np.array([0.299, 0.587, 0.114])
BOX = dict(stride=512, margin=64, taper=0, windows=1)
TAPERED = dict(stride=96, margin=16, taper=16, windows=4)


def texture(size, *, seed):
    """Something stained, stationary: noise with detail of two pixels and of forty."""
    rng = np.random.default_rng(seed)
    square = np.fft.fftfreq(size[0])[:, None] ** 2 + np.fft.rfftfreq(size[1]) ** 2
    amounts = []
    for mean, spread, widths in ((0.45, 0.65, (1, 3, 40)), (0.32, 0.3, (2, 60))):
        smooth = sum(w**2 * np.exp(-4 * np.pi**2 * w**2 * square) for w in widths)
        field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(size)) * np.sqrt(smooth), s=size)
        amounts.append(mean * np.exp(spread * field / field.std()))
    density = np.stack(amounts, axis=2) @ rgb_from_hed[:2]
    return np.clip(np.rint(255 * np.exp(-density)), 0, 255).astype(np.uint8)


def pasted(size, side, piece):
    """A picture of squares; ``piece(before, number)`` makes each of what is there."""
    picture = texture(size, seed=0)
    for number, (y, x) in enumerate(np.ndindex(-(-size[0] // side), -(-size[1] // side))):
        square = picture[y * side : (y + 1) * side, x * side : (x + 1) * side]
        square[:] = piece(square, number)[: len(square), : len(square[0])]
    return picture


def butt_tiles(size=SIZE):
    return pasted(size, 512, lambda _, number: texture((512, 512), seed=number + 1))


def tinted_tiles():
    """No edge is sharp: only the stain differs."""
    rng = np.random.default_rng(5)

    def tint(square, _):
        return np.rint(255 * (square / 255) ** np.exp(rng.normal(0, 0.15)))

    return pasted((1900, 1900), 512, tint)


def uniform_averaging(size=(1440, 1440)):
    """Windows of a tapered plan, painted apart and averaged where they overlap."""
    plan = Plan(size=size, phases=((0, 1),), **TAPERED)
    total, count = np.zeros((*size, 3)), np.zeros((*size, 1))
    for seed, core in enumerate(
        core for b in cells_in((0, 0, *plan.blocks)) for core in plan.cores(b)
    ):
        y0, x0, y1, x1 = plan.window(core)
        window = texture((y1 - y0, x1 - x0), seed=seed)
        y0, x0, cut = max(y0, 0), max(x0, 0), (slice(max(-y0, 0), None), slice(max(-x0, 0), None))
        inner = window[cut][: size[0] - y0, : size[1] - x0]
        total[y0 : y0 + len(inner), x0 : x0 + len(inner[0])] += inner
        count[y0 : y0 + len(inner), x0 : x0 + len(inner[0])] += 1
    return np.rint(total / count).astype(np.uint8)


def slide(path, pixels, *, plan=BOX, corner=(0, 0), **encoding):
    """A slide that says how it was rendered."""
    y, x = corner
    facts = {"plan": plan, "region": [y, x, y + pixels.shape[0], x + pixels.shape[1]]}
    text = f"{WARNING} {json.dumps(facts)}"
    ome_tiff.write(path, pixels, mpp=0.5, description=text, **(encoding or {"lossless": True}))
    return path


def found(path, **settings):
    return [f.name for f in measure_seams(path, **settings) if f.found]


def run(*arguments):
    return CliRunner().invoke(main, ["seams", *map(str, arguments)])


@pytest.fixture(scope="module")
def seamless(tmp_path_factory):
    return slide(tmp_path_factory.mktemp("seamless") / "a.tif", texture(SIZE, seed=0))


@pytest.fixture(scope="module")
def butted(tmp_path_factory):
    return slide(tmp_path_factory.mktemp("butted") / "a.tif", butt_tiles())


def test_a_slide_without_seams_is_called_seamless(seamless):
    result = run(seamless)
    assert result.exit_code == 0 and result.output.splitlines()[-1] == "seams: none found"
    for finding in measure_seams(seamless):
        if "ratio" in finding.name:
            assert finding.low < 1 < finding.high and finding.high - finding.low < 0.25


def test_butt_tiles_are_found(butted):
    result = run(butted)
    assert result.exit_code == 3 and result.output.splitlines()[-1] == "seams: FOUND"
    names = " ".join(found(butted))
    for name in ("vertical block", "horizontal block", "divergence", "power"):
        assert name in names


def test_stain_that_differs_between_tiles_is_found_by_its_jumps(tmp_path):
    names = " ".join(found(slide(tmp_path / "a.tif", tinted_tiles())))
    assert "haematoxylin jump" in names and "eosin jump" in names


@pytest.mark.parametrize("encoding", [{"lossless": True}, {"quality": 85}])
def test_uniform_averaging_is_found_where_the_overlap_ends(tmp_path, encoding):
    path = slide(tmp_path / "a.tif", uniform_averaging(), plan=TAPERED, **encoding)
    names = " ".join(found(path))
    for name in ("vertical ramp", "horizontal ramp", "power at 1/96", "sharpness"):
        assert name in names


def test_jpeg_has_gradients_between_its_units_that_are_no_seams(tmp_path):
    """The trap is there, and nothing falls into it."""
    path = slide(tmp_path / "a.tif", texture((1900, 1900), seed=3), quality=60)
    with open_slide(path) as opened:
        luma = opened.read((0, 0, 1900, 1900), mpp=0.5) @ LUMA
    steps = np.abs(np.diff(luma, axis=1)).mean(axis=0)
    near = [511 + d for d in range(-12, 13) if abs(d) >= 3]
    assert steps[511::512].mean() > 1.1 * steps[near].mean()
    assert not found(path)
    assert all(f.low < 1 < f.high for f in measure_seams(path) if "ratio" in f.name)


def test_the_grid_is_where_the_region_says(tmp_path, butted):
    """The whole picture's seams, in a part of it; and lines that nothing lies on."""
    part = butt_tiles((1900, 1900))[150:, 203:]
    there = found(slide(tmp_path / "a.tif", part, corner=(150, 203)))
    elsewhere = found(slide(tmp_path / "b.tif", part, corner=(150 + 256, 203 + 256)))
    assert sum("ratio" in name for name in there) == 2
    assert not any("ratio" in name for name in elsewhere)


def test_the_plan_of_a_render_is_read_back(annotations, weights):
    from nasdm_wsi.model import Painter

    nuclei = read_annotations(annotations, mpp=0.25)
    job = plan_render(nuclei, Painter(weights), size=(150, 200), region=(10, 20, 100, 120))
    grid = rendered_grid(f"{WARNING} {json.dumps(job.facts)}")
    assert astuple(grid) == (job.plan.stride, job.plan.windows, job.plan.taper, (-10, -20))


def test_lines_are_where_weights_begin_and_end():
    plan = Plan(size=(900, 900), phases=((0, 1),), **TAPERED)
    core = (96, 192, 192, 288)
    weight, window = plan.weight(core), plan.window(core)
    kinks = np.flatnonzero(np.abs(np.diff(weight[64], n=2)) > 1e-6) + 1 + window[1]
    lines = [at for kind in Grid(96, 4, 16).lines.values() for at in kind]
    assert kinks.size and all(min(abs(at - k % 384) for at in lines) <= 1 for k in kinks)


def test_the_gradient_ratio_is_that_of_the_pixels(butted):
    """Against plain means over the squares that the measure looks at."""
    luma = butt_tiles() @ LUMA
    for name, picture in (("vertical", luma), ("horizontal", luma.T)):
        steps = np.abs(np.diff(picture, axis=1))[256:1280]
        line = np.mean([steps[:, x - 1].mean() for x in (512, 1024)])
        near = [steps[:, x - 1 + 16 * k].mean() for x in (512, 1024) for k in range(-4, 5) if k]
        got = next(f for f in measure_seams(butted) if f"{name} block" in f.name)
        assert got.value == pytest.approx(line / np.mean(near), rel=1e-3)
        assert got.low < got.value < got.high


def test_false_alarms_are_rare(tmp_path):
    """One in twenty is promised at most; three of sixteen would be one case in twenty-five."""
    plan = {**BOX, "stride": 192}
    alarms = [
        found(slide(tmp_path / "a.tif", texture((1100, 1100), seed=seed), plan=plan))
        for seed in range(16)
    ]
    assert sum(map(bool, alarms)) <= 2


def test_the_same_seed_gives_the_same_findings(seamless):
    assert measure_seams(seamless, seed=4) == measure_seams(seamless, seed=4)
    assert measure_seams(seamless, seed=4) != measure_seams(seamless, seed=5)


def test_what_cannot_be_measured_is_one_line(tmp_path):
    glass = np.full((*SIZE, 3), 245, np.uint8)
    nowhere, empty = tmp_path / "nowhere.tif", slide(tmp_path / "glass.tif", glass)
    ome_tiff.write(nowhere, texture(SIZE, seed=0), mpp=0.5, description="{foreign}", lossless=True)
    for arguments, told in (
        ([nowhere], "nowhere.tif does not say how it was rendered"),
        ([empty], "too little tissue"),
        ([empty, "--stride", 600], "too little tissue"),
        ([empty, "--stride", 20], "strides from 32"),
        ([empty, "--stride", 5000], "blocks up to 2048"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1 and told in result.output, result.output
        assert len(result.output.strip().splitlines()) == 1
    assert run(nowhere, "--stride", 512).exit_code == 0
    with pytest.raises(SlideError):
        measure_seams(tmp_path / "missing.tif")
