"""The painter: what its header asks for, its solvers, and what it leaves alone."""

import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import shapely
import torch

from nasdm_wsi.annotations.types import PLANES
from nasdm_wsi.errors import NasdmError, OutputError, PlanError
from nasdm_wsi.job import Window
from nasdm_wsi.model import Painter
from nasdm_wsi.model import painter as painter_module
from nasdm_wsi.model.checkpoint import load, load_weights, save, save_weights
from nasdm_wsi.model.config import LocalConfig
from nasdm_wsi.model.families import build, denoiser_of
from nasdm_wsi.model.samplers import SOLVERS
from nasdm_wsi.mosaic.store import open_run
from nasdm_wsi.rendering import plan_render, read_annotations, render, render_region
from nasdm_wsi.slides.reading import find_style, open_slide, size_like

MORE = ("lumen", "epithelium", "stroma", "mucus", "blood", "regions known")
KNOWN = ("pixels known", "known red", "known green", "known blue")


@pytest.fixture(scope="module")
def nuclei(annotations):
    return read_annotations(annotations, mpp=0.25)


def awake(config):
    """A network in which nothing is zero."""
    torch.manual_seed(1)
    network = build(config)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


def window(painter, side=64, seed=0):
    rng = np.random.default_rng(seed)
    unit = rng.standard_normal((3, side, side)).astype(np.float32)
    planes = (rng.random((len(painter.planes), side, side)) < 0.1).astype(np.float32)
    tissue = np.ones((side, side), bool)
    box = (0, 0, side, side)
    return Window(box, box, painter.start(unit), planes, tissue, lambda step: unit)


def test_the_pixel_size_of_the_slide_is_that_of_the_header(weights, nuclei, tmp_path):
    """At 0.25 mpp the slide has twice the side of that at 0.5, and nuclei twice the size."""
    tensors, header = load(weights)
    save(tmp_path / "40x.safetensors", tensors, replace(header, mpp=0.25))
    sizes, areas = {}, {}
    for path in (weights, tmp_path / "40x.safetensors"):
        painter = Painter(path, steps=2, device="cpu")
        job = plan_render(nuclei, painter, region=(0, 0, 96, 96))
        render(job, tmp_path / "slide.ome.tif", overwrite=True)
        with open_slide(tmp_path / "slide.ome.tif") as slide:
            assert slide.mpp == pytest.approx(painter.mpp)
        sizes[painter.mpp] = job.plan.size
        areas[painter.mpp] = np.median(shapely.area(job.nuclei.polygons()))
        assert size_like(tmp_path / "slide.ome.tif", painter.mpp) == (96, 96)
    assert areas[0.25] == pytest.approx(4 * areas[0.5])
    assert sizes[0.25] == pytest.approx(2 * np.array(sizes[0.5]), abs=40)  # the margins


@pytest.mark.parametrize("extra", [MORE, MORE + KNOWN])
def test_planes_that_a_render_is_not_given_are_unknown_to_the_network(tmp_path, nuclei, extra):
    """A network that also takes regions and known pixels paints as if these were not known."""
    names = (*extra[:2], *PLANES, *extra[2:])
    network = awake(LocalConfig((16, 24), (1, 1), embedding=32, planes=len(names)))
    save_weights(tmp_path / "a.safetensors", network, planes=names)
    painter = Painter(tmp_path / "a.safetensors", steps=3, device="cpu")
    assert painter.planes == names
    job = plan_render(nuclei, painter, region=(0, 0, 64, 64))
    ours = render_region(job)
    # The same network without the planes, whose weights see nothing but zeros.
    plain = build(LocalConfig((16, 24), (1, 1), embedding=32))
    state = network.state_dict()
    seen = [*range(3), *(3 + names.index(name) for name in PLANES)]
    kernel = state["stem.weight"].unflatten(1, (3 + len(names), 4))[:, seen]
    plain.load_state_dict({**state, "stem.weight": kernel.flatten(1, 2)})
    save_weights(tmp_path / "b.safetensors", plain)
    other = Painter(tmp_path / "b.safetensors", steps=3, device="cpu")
    theirs = render_region(replace(job, painter=other))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_plane_that_nobody_can_give_is_named(tmp_path, nuclei):
    names = (*PLANES[:-1], "moonlight")
    save_weights(tmp_path / "a.safetensors", awake(LocalConfig((16,), (1,), 32)), planes=names)
    with pytest.raises(PlanError, match="moonlight"):
        plan_render(nuclei, Painter(tmp_path / "a.safetensors", device="cpu"))


def test_a_network_with_a_last_convolution_at_full_resolution_paints_blocks_as_the_whole(tmp_path):
    network = awake(LocalConfig((16, 24), (1, 1), embedding=32, fine=8)).eval()
    save_weights(tmp_path / "a.safetensors", network)
    again, header = load_weights(tmp_path / "a.safetensors")
    assert header.network["fine"] == 8
    side, halo = 32, again.halo
    generator = torch.Generator().manual_seed(0)
    shape = side + 2 * halo + 32
    x, mask = (torch.randn(1, n, shape, shape, generator=generator) for n in (3, 8))

    def run(cut):
        return again(x[..., cut, cut], torch.zeros(1), mask[..., cut, cut], torch.zeros(1, 6))

    whole = run(slice(0, shape))[..., halo + 16 : -halo - 16, halo + 16 : -halo - 16]
    block = run(slice(16, -16))[..., halo:-halo, halo:-halo]
    assert (whole - block).abs().max() < 1e-4 and whole.std() > 1e-3
    poisoned = x.clone()
    poisoned[..., halo + 16 - again.receptive_field, :] = float("nan")
    out = again(poisoned, torch.zeros(1), mask, torch.zeros(1, 6))
    assert out[..., halo + 16, :].isnan().any()
    poisoned = x.clone()
    poisoned[..., halo + 16 - again.receptive_field - 1, :] = float("nan")
    out = again(poisoned, torch.zeros(1), mask, torch.zeros(1, 6))
    assert not out[..., halo + 16, :].isnan().any()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_region_alone_is_that_of_the_whole_with_every_solver(weights, nuclei, solver):
    painter = Painter(weights, steps=3, solver=solver, device="cpu")
    assert painter.channels == {"dpmpp_2m": 6}.get(solver, 3)
    job = plan_render(nuclei, painter, size=(160, 224), seed=3)
    whole = render_region(job, workers=2)
    part = render_region(replace(job, region=(40, 60, 120, 200)), workers=1)
    np.testing.assert_array_equal(part, whole[40:120, 60:200])
    assert painter.facts["solver"] == solver


def test_solvers_paint_different_pictures_and_another_noise_another_one(weights, nuclei):
    pictures = {}
    for solver in SOLVERS:
        painter = Painter(weights, steps=3, solver=solver, device="cpu")
        pictures[solver] = render_region(plan_render(nuclei, painter, size=(96, 96)))
    assert len({p.tobytes() for p in pictures.values()}) == len(SOLVERS)
    painter = Painter(weights, steps=3, solver="euler_ancestral", device="cpu")
    one, other = (
        painter.solve(
            (0, 1), [replace(window(painter), noise=lambda step, s=s: s * window(painter).state)]
        )
        for s in (0.1, 0.2)
    )
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("solver", SOLVERS)
def test_glass_is_white_and_alike_after_the_last_step(weights, solver):
    painter = Painter(weights, steps=4, solver=solver, device="cpu")
    unit = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    last = painter.glass(4, unit)
    assert last.shape == (painter.channels, 8, 8)
    assert (painter.finish(last) == 245).all()
    spread = [painter.glass(k, unit)[:3].std() / unit.std() for k in (1, 2, 3)]
    np.testing.assert_allclose(spread, painter.sigmas[1:4], rtol=1e-4)


def test_everything_that_changes_pixels_stands_in_the_facts(weights):
    base = {"steps": 4, "guidance": 1.0, "solver": "dpmpp_2m", "style": "pale"}
    facts = [Painter(weights, device="cpu", precision="float32", **base).facts]
    for changed in (
        {"steps": 5},
        {"guidance": 1.5},
        {"solver": "ddim"},
        {"style": "deep"},
        {"precision": "bfloat16"},
    ):
        options = {"precision": "float32", **base, **changed}
        facts.append(Painter(weights, device="cpu", **options).facts)
    assert len({str(f) for f in facts}) == len(facts)


@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this CPU computes as one without AVX-512"
)
def test_arithmetic_of_another_kind_has_another_name_and_refuses_the_run_folder(weights, tmp_path):
    script = (
        "import sys; from nasdm_wsi.model.painter import Painter;"
        "print(Painter(sys.argv[1], device='cpu', precision='bfloat16').facts['arithmetic'])"
    )

    def elsewhere(**variables):
        command = [sys.executable, "-c", script, str(weights)]
        environment = os.environ | variables
        return subprocess.run(command, capture_output=True, text=True, env=environment).stdout

    painter = Painter(weights, device="cpu", precision="bfloat16")
    here = painter.facts["arithmetic"]
    there = elsewhere(ONEDNN_MAX_CPU_ISA="AVX2").strip()
    assert elsewhere().strip() == here != there and len(there) == 8
    with open_run(tmp_path, {**painter.facts, "arithmetic": there}):
        pass
    with pytest.raises(OutputError, match="different arithmetic: resume on a .* the same bytes"):
        with open_run(tmp_path, painter.facts):
            pass
    theirs = Painter(weights, device="cpu", precision="bfloat16", arithmetic=there)
    with pytest.raises(PlanError, match="workers of one kind"):
        _ = theirs.denoise


def test_a_style_may_be_a_name_or_a_picture(weights, tmp_path, dataset):
    np.testing.assert_array_equal(Painter(weights, style="pale").style, find_style("pale"))
    picture = dataset / "a" / "image.png"
    np.testing.assert_array_equal(Painter(weights, style=picture).style, find_style(str(picture)))
    np.testing.assert_array_equal(Painter(weights).restyled("deep").style, find_style("deep"))


@pytest.mark.parametrize(
    "setting",
    [
        {"style": "nonsense"},
        {"style": ["a"] * 6},
        {"style": np.zeros(5)},
        {"style": object()},
        {"solver": "nonsense"},
        {"precision": "nonsense"},
        {"guidance": float("nan")},
        {"guidance": -1.0},
        {"steps": 0},
        {"device": "nonsense"},
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_one_line(weights, setting):
    with pytest.raises(NasdmError) as caught:
        Painter(weights, **setting)
    assert "\n" not in str(caught.value)


def test_torch_keeps_the_threads_it_had_and_the_bytes_do_not_depend_on_them(weights):
    painter, states = Painter(weights, steps=2, device="cpu"), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            states.append(painter.solve((0, 1), [window(painter)]))
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(4) as pool:
                list(
                    pool.map(
                        lambda seed: painter.solve((0, 1), [window(painter, seed=seed)]), range(8)
                    )
                )
            assert torch.get_num_threads() == threads
            seen = []
            fresh = threading.Thread(target=lambda seen=seen: seen.append(torch.get_num_threads()))
            fresh.start()
            fresh.join()
            assert seen == [threads]
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(state, states[0]) for state in states)


@pytest.mark.parametrize("sent", [False, True], ids=["here", "sent to another process"])
def test_the_first_of_many_threads_moves_the_network_and_the_others_wait(
    weights, monkeypatch, sent
):
    """On a GPU, threads that moved a network at the same time painted other bytes."""
    made = []

    def slowly(network):
        made.append(network)
        time.sleep(0.05)
        return denoiser_of(network)

    monkeypatch.setattr(painter_module, "denoiser_of", slowly)
    fresh = Painter(weights, device="cpu")
    asked = pickle.loads(pickle.dumps(fresh)) if sent else fresh
    together = threading.Barrier(8)

    def ask(_):
        together.wait()
        return asked.denoise

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, range(8)))
    assert len(made) == 1 and all(denoise is got[0] for denoise in got)


def test_pixels_survive_the_way_to_the_network_and_back():
    from nasdm_wsi.model.pixels import to_image, to_signal

    image = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    signal = to_signal(image)
    assert signal.dtype == np.float32 and (signal.min(), signal.max()) == (-1, 1)
    np.testing.assert_array_equal(to_image(signal), image)
    np.testing.assert_array_equal(to_image(signal * 2)[0, 0], [0, 0, 0])
    assert to_image(np.full((3, 1, 1), 9.0)).max() == 255


def test_a_stochastic_step_takes_the_noise_of_its_own_number(weights):
    painter, asked = Painter(weights, steps=3, solver="euler_ancestral", device="cpu"), []
    plain = window(painter)
    listening = replace(plain, noise=lambda step: asked.append(step) or plain.noise(step))
    for phase in range(3):
        painter.solve((phase, phase + 1), [listening])
    assert asked == [0, 1, 2]


def test_a_last_convolution_reaches_one_cell_further():
    """In a network of one level, where no coarser cell hides it."""
    network = awake(LocalConfig((8,), (1,), 16, fine=4)).eval()
    assert network.receptive_field == awake(LocalConfig((8,), (1,), 16)).receptive_field + 2
    for distance, reached in ((0, True), (1, False)):
        x = torch.zeros(1, 3, 64, 64)
        x[..., 32 - network.receptive_field - distance, :] = float("nan")
        out = network(x, torch.zeros(1), torch.zeros(1, 8, 64, 64), torch.zeros(1, 6))
        assert out[..., 32, :].isnan().any() == reached


def test_a_halo_that_was_measured_is_the_margin_of_the_blocks(weights, tmp_path):
    tensors, header = load(weights)
    save(tmp_path / "a.safetensors", tensors, replace(header, halo=12))
    assert Painter(tmp_path / "a.safetensors", steps=1, device="cpu").plan((64, 64)).margin == 12
    network, _ = load_weights(weights)
    assert Painter(weights, steps=1, device="cpu").plan((64, 64)).margin == network.halo


def test_painters_that_are_sent_share_their_network(weights, monkeypatch, tmp_path):
    """A worker is sent one for each slide of many."""
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    painter = Painter(copy, steps=2, device="cpu")
    sent = [pickle.dumps(p) for p in (painter, painter.restyled("deep"))]
    loaded = []
    monkeypatch.setattr(
        painter_module, "load_weights", lambda path: loaded.append(path) or load_weights(path)
    )
    first, second = map(pickle.loads, sent)
    assert loaded == [copy] and first.network is second.network is not painter.network
    assert first.facts == painter.facts and second.facts["style"] != first.facts["style"]
