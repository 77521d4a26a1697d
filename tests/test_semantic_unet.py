"""The paper's network against a plain functional reading of the published layout."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nasdm_wsi.errors import CheckpointError, OutputError
from nasdm_wsi.model import load_network
from nasdm_wsi.model.config import PAPER, PRESETS, SemanticConfig
from nasdm_wsi.model.convert import convert
from nasdm_wsi.model.diffusion import Condition, NoisePredictor
from nasdm_wsi.model.semantic_unet import SemanticUNet, config_of

LAYOUT = Path(__file__).parents[2] / "shared" / "reference" / "nasdm_checkpoint_layout.json"
SMALL = SemanticConfig(64, (64, 64, 128, 192, 256), condition=8)


def awake(config, seed=0):
    """A network in which no weight is zero, as after training."""
    generator = torch.Generator().manual_seed(seed)
    network = SemanticUNet(config)
    for parameter in network.parameters():
        spread = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.2
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread
    return network.eval().requires_grad_(False)


class Reference:
    """The published network, read off its state with functions alone; one method an idea."""

    def __init__(self, state, x, t, mask):
        self.state, self.mask = state, mask
        width = state["time_embed.0.weight"].shape[1]
        rates = 10_000 ** -(torch.arange(width // 2) / (width // 2))
        angles = t[:, None] * rates[None]
        embedding = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
        self.embedding = F.silu(self.linear("time_embed.2", F.silu(embedding)))
        self.out = self.run(x)

    def has(self, prefix):
        return any(name.startswith(prefix) for name in self.state)

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def conv(self, name, x):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(self, x, name=None):
        grouped = x.reshape(len(x), 32, -1)
        mean, var = grouped.mean(-1, keepdim=True), grouped.var(-1, unbiased=False, keepdim=True)
        x = ((grouped - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
        if name is None:
            return x
        shape = (1, -1, *[1] * (x.ndim - 2))
        return x * self.state[f"{name}.weight"].view(shape) + self.state[f"{name}.bias"].view(shape)

    def semantic_norm(self, name, x):
        step = self.mask.shape[-1] // x.shape[-1]
        hidden = self.conv(f"{name}.mlp_shared.0", self.mask[..., ::step, ::step]).clamp(min=0)
        gamma = self.conv(f"{name}.mlp_gamma", hidden)
        return self.norm(x) * (1 + gamma) + self.conv(f"{name}.mlp_beta", hidden)

    def block(self, name, x, resample=lambda x: x):
        semantic = self.has(f"{name}.in_norm")
        first, last = (
            ("in_layers.1", "out_layers.2") if semantic else ("in_layers.2", "out_layers.3")
        )
        normed = (
            self.semantic_norm(f"{name}.in_norm", x)
            if semantic
            else self.norm(x, f"{name}.in_layers.0")
        )
        h = self.conv(f"{name}.{first}", resample(F.silu(normed)))
        scale, shift = self.linear(f"{name}.emb_layers.1", self.embedding)[..., None, None].chunk(
            2, 1
        )
        normed = (
            self.semantic_norm(f"{name}.out_norm", h)
            if semantic
            else self.norm(h, f"{name}.out_layers.0")
        )
        h = self.conv(f"{name}.{last}", F.silu(normed * (1 + scale) + shift))
        x = resample(x)
        if self.has(f"{name}.skip_connection"):
            x = self.conv(f"{name}.skip_connection", x)
        return x + h

    def attention(self, name, x):
        n, c, height, width = x.shape
        flat = x.reshape(n, c, -1)
        weight = self.state[f"{name}.qkv.weight"][..., 0]
        qkv = weight @ self.norm(flat, f"{name}.norm") + self.state[f"{name}.qkv.bias"][:, None]
        heads = []
        for head in qkv.split(3 * 64, dim=1):
            q, k, v = head.split(64, dim=1)
            weights = (q.transpose(1, 2) @ k / 8).softmax(dim=-1)
            heads.append(v @ weights.transpose(1, 2))
        weight = self.state[f"{name}.proj_out.weight"][..., 0]
        out = weight @ torch.cat(heads, 1) + self.state[f"{name}.proj_out.bias"][:, None]
        return x + out.reshape(n, c, height, width)

    def run(self, x):
        def down(h):
            return (
                h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]
            ) / 4

        def up(h):
            return h.repeat_interleave(2, -1).repeat_interleave(2, -2)

        h = self.conv("input_blocks.0.0", x)
        skips = [h]
        for i in range(1, 15):
            h = self.block(f"input_blocks.{i}.0", h, down if i % 3 == 0 else lambda x: x)
            if self.has(f"input_blocks.{i}.1"):
                h = self.attention(f"input_blocks.{i}.1", h)
            skips.append(h)
        h = self.block("middle_block.0", h)
        h = self.attention("middle_block.1", h)
        h = self.block("middle_block.2", h)
        for i in range(15):
            h = self.block(f"output_blocks.{i}.0", torch.cat([h, skips.pop()], 1))
            for extra in (f"output_blocks.{i}.1", f"output_blocks.{i}.2"):
                if self.has(f"{extra}.qkv"):
                    h = self.attention(extra, h)
                elif self.has(f"{extra}.in_norm"):
                    h = self.block(extra, h, up)
        return self.conv("out.2", F.silu(self.norm(h, "out.0")))


def inputs(seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 64, 64, generator=generator)
    mask = torch.rand(2, 8, 64, 64, generator=generator).round()
    return x, torch.tensor([7.0, 903.0]), mask


def test_a_converted_checkpoint_gives_the_outputs_of_the_published_network(tmp_path):
    network = awake(SMALL)
    state = network.state_dict()
    # Trained by several processes and averaged: names with a prefix, tensors not contiguous.
    published = {
        f"module.{k}": v.transpose(0, -1).contiguous().transpose(0, -1) for k, v in state.items()
    }
    torch.save(published, tmp_path / "ema_0.999_100000.pt")
    assert convert(tmp_path / "ema_0.999_100000.pt", tmp_path / "nasdm.safetensors") == SMALL
    converted = load_network(tmp_path / "nasdm.safetensors")
    assert not converted.training
    x, t, mask = inputs()
    expected = Reference(state, x, t, mask).out
    assert expected.shape == (2, 6, 64, 64) and expected.std() > 0.1
    assert (converted(x, t, mask) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.skipif(not LAYOUT.exists(), reason="the published layout is not here")
def test_the_published_layout_is_the_preset_with_a_background_channel():
    layout = {name: tuple(shape) for name, shape in json.loads(LAYOUT.read_text()).items()}
    with torch.device("meta"):
        network = SemanticUNet(config_of(layout))
        ours = SemanticUNet(PRESETS["nasdm"].network)
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == layout
    assert network.config == SemanticConfig(256, PAPER.widths, condition=8)
    assert sum(p.numel() for p in ours.parameters()) == pytest.approx(500.5e6, rel=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        SemanticConfig(32, (32, 64), attention=(2,), blocks=1),
        SemanticConfig(64, (64, 128, 128), attention=(), blocks=3, condition=5, outputs=3),
        SemanticConfig(96, (192, 192, 384), attention=(1, 4), blocks=2),
    ],
)
def test_the_shape_is_read_off_the_tensors(config):
    with torch.device("meta"):
        state = SemanticUNet(config).state_dict()
    assert config_of({name: tuple(t.shape) for name, t in state.items()}) == config


def test_gradient_checkpointing_changes_nothing_but_memory():
    network = awake(PRESETS["nasdm-tiny"].network).train().requires_grad_(True)
    x, t, mask = inputs()
    gradients = []
    for network.checkpointing in (False, True):
        network.zero_grad()
        network(x, t, mask[:, :7]).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_published_network_sees_the_background_and_the_null_condition_is_empty():
    seen = []

    class Spy(SemanticUNet):
        def forward(self, x, t, condition):
            seen.append((t, condition))
            return x.repeat(1, 2, 1, 1)

    with torch.device("meta"):
        network = Spy(SMALL)
    mask = torch.zeros(1, 8, 4, 4)
    mask[:, 7] = 1
    mask[:, 2, 0, 0] = mask[:, 6, 0, 0] = 1
    condition = Condition(mask, torch.zeros(1, 6))
    denoise = NoisePredictor(network)
    x, sigma = torch.ones(1, 3, 4, 4), denoise.schedule.sigmas[500].float()[None]
    out = denoise(x, sigma, condition)
    torch.testing.assert_close(out, x - sigma * x / (1 + sigma**2).sqrt())
    assert seen[0][0].item() == pytest.approx(500, abs=1e-3)
    background, planes = seen[0][1][:, 0], seen[0][1][:, 1:]
    assert background.sum() == 15 and background[0, 0, 0] == 0
    assert torch.equal(planes, mask[:, :7])
    denoise(x, sigma, condition.null())
    assert not seen[1][1].any()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda s: s.pop("out.2.bias"), "out.2.bias is missing"),
        (lambda s: s.update(extra=torch.ones(1)), "1 tensors differ: extra is not known"),
        (
            lambda s: s.update({"time_embed.2.bias": torch.ones(3)}),
            r"time_embed.2.bias is \[3\] instead of \[128\]",
        ),
        (lambda s: s.clear(), "660 tensors differ: time_embed.0.weight is missing"),
        (lambda s: s.update(step=7), "not a state_dict"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_first_names(tmp_path, spoil, message):
    state = awake(PRESETS["nasdm-tiny"].network).state_dict()
    spoil(state)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "bad.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_pickle_with_code_is_not_run(tmp_path, capsys):
    torch.save({"weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="more than tensors"):
        convert(tmp_path / "evil.pt", tmp_path / "out.safetensors")
    assert capsys.readouterr().out == ""
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError):
        convert(tmp_path / "text.pt", tmp_path / "out.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "nowhere.pt", tmp_path / "out.safetensors")


def test_an_existing_output_is_kept(tmp_path):
    torch.save(awake(PRESETS["nasdm-tiny"].network).state_dict(), tmp_path / "a.pt")
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    with pytest.raises(OutputError, match="`overwrite`"):
        convert(tmp_path / "a.pt", out)
    with pytest.raises(OutputError, match="must end in"):
        convert(tmp_path / "a.pt", tmp_path / "out.pt")
    assert out.read_text() == "precious"
    convert(tmp_path / "a.pt", out, overwrite=True)
    assert isinstance(load_network(out), SemanticUNet)
