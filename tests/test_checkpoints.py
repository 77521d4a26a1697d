"""Checkpoints: what a header says, and every kind of damage in one line."""

import json
import os
import stat
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.checkpoints import KEY, OLD_KEY, Sampler, read_header
from nasdm_wsi.errors import CheckpointError
from nasdm_wsi.model.checkpoint import SHIPPED, digest, load, load_weights, save
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.families import build
from nasdm_wsi.model.planes import ALL_PLANES
from nasdm_wsi.model.training.train import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own


def raw(path):
    """Tensors and the metadata's one entry of a file, without our own reader."""
    with safe_open(path, framework="pt") as file:
        ((key, text),) = file.metadata().items()
        return {name: file.get_tensor(name) for name in file.keys()}, key, json.loads(text)


def write(path, tensors, values, *, key=KEY, hashed=True):
    if hashed:
        values = {**values, "sha256": digest(tensors)}
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, path, metadata={key: json.dumps(values)}
    )
    return path


def assert_one_line(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_header_comes_back_as_it_was_written(weights, tmp_path):
    network, header = load_weights(weights)
    changed = replace(
        header, mpp=0.25, halo=8, guidance=1.5, sampler=Sampler("ddim", steps=5, channels=3)
    )
    save(tmp_path / "a.safetensors", network.state_dict(), changed)
    again, shapes = read_header(tmp_path / "a.safetensors")
    assert replace(again, sha256=None) == replace(changed, sha256=None) and again.sha256
    assert shapes == {name: tuple(t.shape) for name, t in network.state_dict().items()}


def test_the_shipped_weights_tell_all_that_a_render_needs():
    header, _ = read_header(SHIPPED)
    assert (header.kind, header.family, header.mpp, header.halo) == ("weights", "local", 0.5, 72)
    assert header.planes == ALL_PLANES and header.types == TYPES[1:]
    assert header.sampler == Sampler("dpmpp_2m", steps=4, channels=6)
    assert header.guidance == 1.0 and header.training.preset == "small-regions"
    assert header.training.settings["crop"] == 128 and header.sha256


def old_header(name, **facts):
    recipe = PRESETS[name]
    family = "local" if name == "tiny" else "semantic"
    network = {k: v for k, v in asdict(recipe.network).items() if k not in ("planes", "fine")}
    return {"family": family, "network": network, "training": asdict(recipe.training), **facts}


def test_a_file_of_the_first_format_is_read_as_what_it_was_trained_for(tmp_path):
    tensors = build(PRESETS["nasdm-tiny"].network).state_dict()
    old = old_header("nasdm-tiny", preset="nasdm-10x", seed=3, step=7, seen=28)
    old["training"]["magnification"] = 10
    path = write(tmp_path / "a.safetensors", tensors, old, key=OLD_KEY, hashed=False)
    network, header = load_weights(path)
    assert header.mpp == 1.0 and header.sampler.steps == 18 and header.halo is None
    assert (header.training.seed, header.training.step, header.training.seen) == (3, 7, 28)
    assert network.config == PRESETS["nasdm-tiny"].network
    del old["family"]  # as in training checkpoints
    write(path, tensors, old, key=OLD_KEY, hashed=False)
    assert read_header(path)[0].kind == "training" and read_header(path)[0].family == "semantic"


def flip_a_bit(tensors, values):
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(torch.int16).view(-1)[7] ^= 1


def set_value(value):
    def spoil(tensors, values):
        tensors["head.bias"] = tensors["head.bias"].clone()
        tensors["head.bias"][0] = value

    return spoil


def set_header(name, value):
    return lambda tensors, values: values.update({name: value})


def set_network(name, value):
    return lambda tensors, values: values["network"].update({name: value})


@pytest.mark.parametrize(
    "spoil, hashed, message",
    [
        (flip_a_bit, False, "is damaged: its tensors"),
        (lambda t, v: t.pop("head.bias"), False, "is damaged: its tensors"),
        (set_value(float("nan")), True, "head.bias holds NaN"),
        (set_value(float("-inf")), True, "head.bias holds NaN or infinity"),
        (lambda t, v: t.update({"head.bias": torch.ones(12).int()}), True, "holds torch.int32"),
        (lambda t, v: t.update({"head.bias": torch.ones(5)}), True, r"head.bias is \[5\] instead"),
        (lambda t, v: t.pop("head.bias"), True, "1 tensors differ: head.bias is missing"),
        (lambda t, v: t.update(more=torch.ones(1)), True, "1 tensors differ: more is not known"),
        (set_header("family", "other"), True, "family 'other' is none of local, semantic"),
        (set_header("family", 7), True, "header is damaged .*'family' is '7'"),
        (set_header("network", [1]), True, "header is damaged .*'network'"),
        (set_header("format", 3), True, "format 3 is not 2"),
        (set_header("mpp", -1.0), True, "header is damaged .*pixel size of -1.0"),
        (set_header("mpp", "0.5"), True, "header is damaged .*'mpp'"),
        (set_header("planes", ["edge"]), True, "names 1 planes, and its network takes 8"),
        (set_header("planes", "edge"), True, "header is damaged .*'planes'"),
        (set_header("halo", 1e9), True, "header is damaged .*'halo'"),
        (set_header("surprise", 1), True, "'surprise' is not known"),
        (lambda t, v: v.pop("sampler"), True, "'sampler' is missing"),
        (set_network("blocks", [1, 100_000]), True, "header is damaged .*blocks"),
        (set_network("widths", ["a", "b"]), True, "header is damaged .*'widths'"),
        (set_network("widths", [16]), True, "1 widths and 2 numbers of blocks"),
        (set_network("depth", 3), True, "'depth' is not known"),
    ],
)  # fmt: skip
def test_damaged_weights_are_refused_in_one_line(weights, tmp_path, spoil, hashed, message):
    tensors, _, values = raw(weights)
    spoil(tensors, values)
    assert_one_line(write(tmp_path / "w.safetensors", tensors, values, hashed=hashed), message)


@pytest.mark.parametrize("key", [KEY, OLD_KEY])
@pytest.mark.parametrize("text", ["{", "[]", "7", "null", '{"network": []}', "[" * 100_000])
def test_a_header_that_is_no_header_is_refused_in_one_line(weights, tmp_path, key, text):
    tensors, _, _ = raw(weights)
    save_file(tensors, tmp_path / "w.safetensors", metadata={key: text})
    assert_one_line(tmp_path / "w.safetensors", "header is damaged")


def test_other_files_are_refused_in_one_line(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    assert_one_line(tmp_path / "other.safetensors", "not a checkpoint of nasdm-wsi")
    (tmp_path / "text.safetensors").write_text("hello")
    assert_one_line(tmp_path / "text.safetensors", "damaged or not a safetensors file")
    assert_one_line(tmp_path / "none.safetensors", "does not exist")


def test_a_damaged_run_does_not_go_on(dataset, tmp_path):
    train(dataset, tmp_path, preset="tiny", images=8)
    last = tmp_path / "last.safetensors"
    tensors, _, values = raw(last)
    slot = next(name for name in tensors if name.endswith("exp_avg_sq"))

    def refused(message):
        with pytest.raises(CheckpointError, match=message) as caught:
            train(dataset, tmp_path, preset="tiny", images=16)
        assert "\n" not in str(caught.value)

    write(last, {**tensors, slot: tensors[slot] + 1}, values, hashed=False)
    refused("is damaged: its tensors")
    write(last, {**tensors, slot: tensors[slot] * float("nan")}, values)
    refused(f"{slot} holds NaN")
    write(last, {k: v for k, v in tensors.items() if k != slot}, values)
    refused(f"1 tensors differ: {slot} is missing")
    write(last, {**tensors, slot: tensors[slot][:1]}, values)
    refused(f"{slot} is .* instead of")
    write(last, tensors, {**values, "kind": "weights"})
    refused("holds weights but no run")
    write(last, tensors, values)
    train(dataset, tmp_path, preset="tiny", images=16)


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_weights_have_the_mode_of_any_new_file(weights, tmp_path):
    network, header = load_weights(weights)
    before = os.umask(0o027)
    try:
        save(tmp_path / "a.safetensors", network.state_dict(), header)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640


def test_the_digest_is_of_names_types_shapes_and_values(weights):
    tensors, _ = load(weights)
    first = next(iter(tensors))
    other = [
        {**{k: v for k, v in tensors.items() if k != first}, "renamed": tensors[first]},
        {**tensors, first: tensors[first].view(torch.bfloat16)},
        {**tensors, first: tensors[first][None]},
        {**tensors, first: tensors[first] + 1},
    ]
    assert len({digest(t) for t in [tensors, *other]}) == 5
    assert digest(dict(reversed(tensors.items()))) == digest(tensors)
    assert np.isfinite([t.sum().item() for t in tensors.values()]).all()
