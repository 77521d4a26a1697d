import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import CheckpointError, NasdmError, StoppedError
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import (
    load,
    load_network,
    load_weights,
    save,
    save_weights,
)
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.devices import place
from nasdm_wsi.model.diffusion import Condition, Denoiser
from nasdm_wsi.model.families import build
from nasdm_wsi.model.guidance import guided
from nasdm_wsi.model.local_unet import LocalUNet
from nasdm_wsi.model.samplers import SIGMA_MAX, SIGMA_MIN, karras_sigmas, sample
from nasdm_wsi.model.training.board import sample_grid
from nasdm_wsi.model.training.data import Batches, Crops
from nasdm_wsi.model.training.objectives import Objective
from nasdm_wsi.model.training.optimisers import KernelMuon
from nasdm_wsi.model.training.train import _start_from, train
from nasdm_wsi.model.training.trainer import Trainer
from nasdm_wsi.tools.prepare import prepare

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own


class Stop(Exception):
    pass


def test_a_stopped_run_that_goes_on_equals_an_unbroken_one(dataset, tmp_path):
    unbroken = train(dataset, tmp_path / "a", preset="tiny", images=48, save_every=8)

    def stop(done, total, loss):
        if done == 28:
            raise Stop

    with pytest.raises(Stop):
        train(dataset, tmp_path / "b", preset="tiny", images=48, save_every=8, progress=stop)
    seen = []
    again = train(
        dataset,
        tmp_path / "b",
        preset="tiny",
        images=48,
        save_every=8,
        progress=lambda done, total, loss: seen.append(done),
    )
    assert seen[0] == 28  # from the checkpoint at 24, not from the start
    assert unbroken.read_bytes() == again.read_bytes()
    a, b = load(tmp_path / "a" / "last.safetensors"), load(tmp_path / "b" / "last.safetensors")
    assert all(torch.equal(a[0][k], b[0][k]) for k in a[0]) and a[1] == b[1]


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    settings = PRESETS["small"].training
    network = LocalUNet(PRESETS["tiny"].network)
    trainer = Trainer(network, Objective(Denoiser(network)), settings, device=torch.device("cpu"))

    def rate(images):
        trainer.seen = images
        return trainer.learning_rate

    assert rate(0) == pytest.approx(settings.learning_rate * settings.batch / settings.warmup)
    assert rate(settings.warmup) == rate(settings.images // 2) == settings.learning_rate
    half = settings.images - round(settings.decay * settings.images / 2)
    assert rate(half) == pytest.approx(settings.learning_rate / 2, rel=1e-3)
    assert rate(settings.images) == 0


def under_torchrun(processes, *arguments):
    """Run a script under torchrun, once more if it hangs.

    It was seen once, and nothing told where: so a script that hangs also prints its traceback.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [*torchrun, processes, *map(str, arguments)]
    try:
        subprocess.run(command, check=True, timeout=600)
    except subprocess.TimeoutExpired:
        subprocess.run(command, check=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "nasdm-tiny"])
def test_two_processes_train_as_one_on_the_joined_batch(dataset, tmp_path, preset):
    """Under torchrun, with gloo on the CPU, in float32."""
    script = textwrap.dedent(
        """
        import faulthandler, sys, torch
        from dataclasses import replace
        from pathlib import Path
        from nasdm_wsi.model import config
        from nasdm_wsi.model.training import train, trainer
        faulthandler.dump_traceback_later(650, exit=True)
        torch.set_num_threads(1)
        trainer.PRECISION = torch.float32
        preset, data, out, batch = sys.argv[1:]
        recipe = config.PRESETS[preset]
        training = replace(recipe.training, batch=int(batch), accumulate=2, warmup=0)
        config.PRESETS[preset] = replace(recipe, training=training)
        train.train(Path(data), Path(out), preset=preset, images=48)
        # Threads of the process group may abort the process when the interpreter ends.
        threads = [t.read_text() for t in Path("/proc/self/task").glob("*/comm")]
        assert not [name for name in threads if "gloo" in name], threads
        """
    )
    (tmp_path / "run.py").write_text(script)
    for processes, batch in (("1", "4"), ("2", "2")):
        under_torchrun(processes, tmp_path / "run.py", preset, dataset, tmp_path / processes, batch)
    one, two = (load(tmp_path / n / "last.safetensors") for n in "12")
    one_run, two_run = one[1].training, two[1].training
    assert one_run.step == two_run.step == 6 and one_run.seen == two_run.seen == 48
    start = build(PRESETS[preset].network).state_dict()
    moved = max((one[0][f"network.{n}"] - t).abs().max() for n, t in start.items())
    apart = max((one[0][f"network.{n}"] - two[0][f"network.{n}"]).abs().max() for n in start)
    assert moved > 1e-3 and apart < 0.05 * moved  # Muon works in bfloat16


def test_a_killed_run_goes_on_to_the_weights_of_an_unbroken_one(dataset, tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys, torch
        from pathlib import Path
        from nasdm_wsi.model.training.train import train
        torch.set_num_threads(1)
        def progress(done, total, loss):
            if done == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
        train(Path(sys.argv[1]), Path(sys.argv[2]), preset="tiny", images=48, save_every=8,
              progress=progress)
        """
    )

    def run(folder, kill_at):
        command = [sys.executable, "-c", script, dataset, tmp_path / folder, kill_at]
        return subprocess.run([str(part) for part in command]).returncode

    assert run("unbroken", 0) == 0
    assert run("killed", 28) == -signal.SIGKILL and run("killed", 0) == 0
    for name in ("weights.safetensors", "last.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "unbroken" / name
        ).read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Slurm needs POSIX")
def test_a_warning_of_slurm_saves_a_checkpoint_and_ends(dataset, tmp_path):
    def warn(done, total, loss):
        if done == 12:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(StoppedError, match="12 of .* crops are done"):
        train(dataset, tmp_path / "a", preset="tiny", images=24, progress=warn)
    again = train(dataset, tmp_path / "a", preset="tiny", images=24)
    assert (
        again.read_bytes() == train(dataset, tmp_path / "b", preset="tiny", images=24).read_bytes()
    )


def test_the_second_stage_starts_from_the_weights_of_the_first(dataset, tmp_path):
    network = build(PRESETS["nasdm-tiny"].network)
    save_weights(tmp_path / "first.safetensors", network)
    train(
        dataset,
        tmp_path / "run",
        preset="nasdm-tiny",
        images=4,
        init=tmp_path / "first.safetensors",
    )
    begun = load(tmp_path / "run" / "last.safetensors")[0]
    for name, tensor in network.state_dict().items():
        assert (begun[f"network.{name}"] - tensor).abs().max() < 1e-3
    with pytest.raises(CheckpointError, match="a different network"):
        train(dataset, tmp_path / "x", preset="tiny", images=4, init=tmp_path / "first.safetensors")


def test_a_network_learns_to_guide_itself(dataset, tmp_path, monkeypatch):
    """What it paints comes nearer to what its teacher paints when that is guided."""
    tiny = PRESETS["tiny"]
    how = replace(tiny.training, guidance=2.0, learning_rate=5e-3, warmup=0)
    monkeypatch.setitem(PRESETS, "tiny-guided", replace(tiny, training=how))
    teacher = train(dataset, tmp_path / "teacher", preset="tiny", images=1_000)
    with pytest.raises(CheckpointError, match="give `init`"):
        train(dataset, tmp_path / "x", preset="tiny-guided", images=4)
    student = train(dataset, tmp_path / "run", preset="tiny-guided", images=1_000, init=teacher)
    other = train(dataset, tmp_path / "other", preset="tiny", images=4)
    with pytest.raises(CheckpointError, match="another run.*teacher"):
        train(dataset, tmp_path / "run", preset="tiny-guided", images=1_000, init=other)
    crops = Crops(dataset, crop=32, seed=99)
    x0, mask, style = (torch.stack(p) for p in zip(*(crops[i] for i in range(8)), strict=True))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    condition, sigma = Condition(mask, style), torch.full((8,), 0.7)

    def estimate(path, scale):
        return guided(Denoiser(load_network(path)), scale)(x0 + 0.7 * noise, sigma, condition)

    wanted = estimate(teacher, 2.0)
    before, after = (
        (e - wanted).square().mean() for e in (estimate(teacher, 0), estimate(student, 0))
    )
    assert after < 0.5 * before
    assert load_weights(student)[1].guidance == 2.0


@pytest.mark.slow
def test_training_learns_where_nuclei_are_and_how_they_are_stained(dataset, tmp_path):
    """Made-up tissue is learnt in a minute: nuclei come out dark where the mask has them."""
    weights = train(dataset, tmp_path / "run", preset="tiny", images=4_000)
    network, header = load_weights(weights)
    denoiser = Denoiser(network)
    assert header.training.preset == "tiny" and header.training.step == 1000
    crops = Crops(dataset, crop=48, seed=99)
    _, mask, style = (
        torch.stack(parts) for parts in zip(*(crops[i] for i in range(4)), strict=True)
    )
    noise = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    pixels = sample(denoiser, noise, Condition(mask, style), sigmas=karras_sigmas(12))
    nucleus = mask[:, :6].sum(1) > 0
    assert pixels[:, 1][nucleus].mean() < pixels[:, 1][~nucleus].mean() - 0.3
    darker = sample(denoiser, noise, Condition(mask, style * 1.3), sigmas=karras_sigmas(12))
    assert darker.mean() < pixels.mean() - 0.03


def test_training_computes_in_the_precision_that_rendering_selects(dataset):
    """Both in steps and in sample grids; bfloat16 takes minutes where it has to be emulated."""
    network = LocalUNet(PRESETS["tiny"].network)
    trainer = Trainer(
        network, Objective(Denoiser(network)), PRESETS["tiny"].training, device=torch.device("cpu")
    )
    precisions = []
    for module in (trainer.network, trainer.average):
        module.stem.register_forward_hook(lambda *args: precisions.append(str(args[2].dtype)))
    samples = Crops(dataset, crop=32)
    trainer.update([Batches(samples, seed=0, dropout=0.1)[range(4)]])
    sample_grid(trainer.average, samples, samples.planes)
    assert set(precisions) == {f"torch.{place('cpu')[1]}"}


def test_the_loss_is_about_one_before_training_whatever_the_noise(dataset):
    """EDM's weighting: an untrained network's error is the data's own, of unit size."""
    denoiser = Denoiser(LocalUNet(PRESETS["tiny"].network))
    x0 = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5
    condition = Condition(torch.zeros(64, 8, 16, 16), torch.zeros(64, 6))
    for level in (0.001, 0.5, 0.999):
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
        loss = denoiser.loss(x0, condition, torch.full((64,), level), noise)
        assert loss.mean().item() == pytest.approx(1, rel=0.1)


def test_training_sees_every_noise_level_that_a_picture_is_painted_at():
    denoiser = Denoiser(LocalUNet(PRESETS["tiny"].network))
    low, high = denoiser.sigma(torch.tensor([0.001, 0.999])).tolist()
    assert low < SIGMA_MIN and high > SIGMA_MAX


def test_dropping_the_mask_takes_its_flag_with_it():
    condition = Condition(torch.ones(2, 8, 4, 4), torch.ones(2, 6))
    dropped = condition.drop(torch.tensor([True, False]))
    assert dropped.planes[0].sum() == 0 and dropped.planes[1].min() == 1
    assert (dropped.style == 1).all() and (condition.null().planes == 0).all()


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(dataset, tmp_path):
    weights = train(dataset, tmp_path, preset="tiny", images=8)
    with pytest.raises(CheckpointError, match="another run.*seed"):
        train(dataset, tmp_path, preset="tiny", images=8, seed=1)
    with pytest.raises(CheckpointError, match="no weights for rendering"):
        load_network(tmp_path / "last.safetensors")
    tensors, header = load(weights)
    header.network["widths"] = [16, 32]
    save(tmp_path / "other.safetensors", tensors, header)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_network(tmp_path / "other.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_network(weights)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_network(tmp_path / "nowhere.safetensors")
    assert not list(tmp_path.glob("*.part"))


def test_tensorboard_gets_losses_and_samples(dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(dataset, tmp_path, preset="tiny", images=208)
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert np.isfinite([e.value for e in events.Scalars("loss")]).all()
    assert events.Images("samples")[-1].width == 8 * 32


def test_a_long_gradient_is_cut_to_length_one(dataset):
    class Steep(Objective):
        def forward(self, batch):
            return 1e4 * super().forward(batch)

    settings = PRESETS["tiny"].training
    batch = Batches(Crops(dataset, crop=32), seed=0, dropout=0.1)[range(4)]
    norms = []
    for kind in (Steep, Objective):
        torch.manual_seed(0)
        network = LocalUNet(PRESETS["tiny"].network)
        Trainer(network, kind(Denoiser(network)), settings, device=torch.device("cpu")).update(
            [batch]
        )
        norms.append(sum(p.grad.square().sum() for p in network.parameters()).sqrt().item())
    assert norms[0] == pytest.approx(1, rel=1e-3)
    assert 0 < norms[1] < 1  # a short one stays


def test_a_network_trained_at_10x_or_on_other_pictures_says_so_and_paints_so(
    dataset, lizard_source, tmp_path, monkeypatch
):
    recipe = PRESETS["nasdm-tiny"]
    coarse = replace(recipe, training=replace(recipe.training, magnification=10))
    monkeypatch.setitem(PRESETS, "nasdm-tiny-10x", coarse)
    assert PRESETS["nasdm-10x"].training.magnification == 10
    prepare([lizard_source], tmp_path / "40x", mpp=0.25)
    for name, data, preset, mpp in (
        ("a", dataset, "nasdm-tiny-10x", 1.0),
        ("b", tmp_path / "40x", "tiny", 0.25),
        ("c", dataset, "tiny", 0.5),
    ):
        weights = train(data, tmp_path / name, preset=preset, images=4)
        assert Painter(weights, device="cpu").mpp == load_weights(weights)[1].mpp == mpp


def test_without_tensorboard_training_says_how_to_get_it(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(NasdmError, match=r"pip install 'nasdm-wsi\[train\]'"):
        train(dataset, tmp_path / "run", preset="tiny", images=4)


def test_tensorboard_is_not_imported_before_training():
    code = (
        "import sys; import nasdm_wsi.model.training.train; "
        "assert not [m for m in sys.modules if 'tensorboard' in m]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_presets_that_cannot_be_trained_are_refused_where_they_are_made():
    tiny, paper = PRESETS["tiny"], PRESETS["nasdm-tiny"]
    with pytest.raises(ValueError, match="needs a teacher"):
        replace(tiny, training=replace(tiny.training, critic_below=1.0))
    with pytest.raises(ValueError, match="needs a teacher"):
        replace(tiny, training=replace(tiny.training, distances_below=1.0))
    with pytest.raises(ValueError, match="local family"):
        replace(paper, training=replace(paper.training, guidance=1.0))


def test_the_command_trains_on_the_very_device_that_is_named(dataset, tmp_path, monkeypatch):
    """That cuda:1 is not cuda:0 shows on a CPU as well, which has a number, too."""
    given = {}
    monkeypatch.setattr(
        "nasdm_wsi.model.training.train.train", lambda *a, **k: given.update(k) or a[1]
    )
    arguments = ["train", str(dataset), "-o", str(tmp_path / "run"), "--device", "cpu:0"]
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    assert given["device"] == "cpu:0"


def test_a_stopped_command_ends_with_one_line_and_code_130(dataset, tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from nasdm_wsi.cli.main import main
        from nasdm_wsi.model.training import trainer
        update = trainer.Trainer.update
        def warned(self, batches):
            os.kill(os.getpid(), signal.SIGTERM)
            return update(self, batches)
        trainer.Trainer.update = warned
        main(["train", sys.argv[1], "-o", sys.argv[2], "--preset", "tiny", "--device", "cpu"])
        """
    )
    command = [sys.executable, "-c", script, str(dataset), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Stopped: 4 of 4000 crops are done;")
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_apples_gpu_is_taken_where_it_is_there_and_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert place("auto") == ("mps", "float32")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert place("auto")[0] == "cpu"


class Gentle(Objective):
    """A loss whose gradients are too short to be cut."""

    def forward(self, batch):
        return 2**-10 * super().forward(batch)


def fresh_trainer(kind=Objective):
    torch.manual_seed(0)
    network = LocalUNet(PRESETS["tiny"].network)
    settings = PRESETS["tiny"].training
    return Trainer(network, kind(Denoiser(network)), settings, device=torch.device("cpu"))


def test_the_average_is_young_at_first_and_then_has_its_memory(dataset):
    batch = Batches(Crops(dataset, crop=32), seed=0, dropout=0.1)[range(4)]
    trainer = fresh_trainer()
    start = [p.clone() for p in trainer.network.parameters()]
    trainer.update([batch])
    keep = 2 / 11
    for a, b, now in zip(
        start, trainer.average.parameters(), trainer.network.parameters(), strict=True
    ):
        torch.testing.assert_close(b, keep * a + (1 - keep) * now)
    trainer.step = 10**6
    before = [p.clone() for p in trainer.average.parameters()]
    trainer.update([batch])
    for a, b, now in zip(
        before, trainer.average.parameters(), trainer.network.parameters(), strict=True
    ):
        torch.testing.assert_close(b, 0.999 * a + 0.001 * now)


def test_the_gradient_of_a_step_is_the_mean_of_its_batches(dataset):
    batches = Batches(Crops(dataset, crop=32), seed=0, dropout=0.1)

    def gradients(*chosen):
        trainer = fresh_trainer(Gentle)
        trainer.update([batches[indices] for indices in chosen])
        return [2**10 * p.grad for p in trainer.network.parameters()]

    a, b = range(4), range(4, 8)
    for both, one, other in zip(gradients(a, b), gradients(a), gradients(b), strict=True):
        torch.testing.assert_close(both, (one + other) / 2, rtol=1e-3, atol=1e-4)


def test_the_condition_of_the_share_that_is_asked_for_is_dropped_and_the_style_stays(dataset):
    samples = Crops(dataset, crop=32)
    for dropout in (0.0, 0.25, 1.0):
        condition = Batches(samples, seed=0, dropout=dropout)[range(200)].condition
        dropped = (condition.planes == 0).flatten(1).all(1)
        assert dropped.float().mean().item() == pytest.approx(dropout, abs=0.08)
        assert (condition.style != 0).any(1).all()


def test_muon_sees_a_kernel_as_the_matrix_of_what_each_output_reads():
    kernel = torch.nn.Parameter(torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(kernel.detach().permute(0, 2, 3, 1).reshape(6, 36).clone())
    options = {"lr": 0.1, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    kernel.grad = torch.randn(6, 4, 3, 3)
    matrix.grad = kernel.grad.permute(0, 2, 3, 1).reshape(6, 36)
    KernelMuon([kernel], **options).step()
    torch.optim.Muon([matrix], **options).step()
    assert torch.equal(kernel.permute(0, 2, 3, 1).reshape(6, 36), matrix)


def test_a_teacher_into_which_guidance_is_distilled_is_not_guided_again(weights, tmp_path):
    network, settings = load_network(weights), PRESETS["tiny"].training
    save_weights(tmp_path / "a.safetensors", network, guidance=2.0)
    x, condition = torch.ones(1, 3, 16, 16), Condition(torch.ones(1, 8, 16, 16), torch.ones(1, 6))
    plain = Denoiser(network)(x, torch.ones(1), condition)
    for scale, same in ((2.0, True), (1.0, False)):
        student = build(PRESETS["tiny"].network)
        teacher = _start_from(
            tmp_path / "a.safetensors",
            student,
            replace(settings, guidance=scale),
            torch.device("cpu"),
        )
        estimate = teacher(x, torch.ones(1), condition)
        assert torch.allclose(estimate, plain, atol=1e-3) == same
        assert torch.equal(student.stem.weight.half(), network.stem.weight.half())
