"""Train the segmenter of nuclei on a CPU within a given time.

    python benchmarks/labels/train_segmenter.py DATA WEIGHTS --minutes 12

Labels come as full ones (types and instances: Lizard, CoNSeP) or as points (centres, of some the
kind: CRCHistoPhenotypes). A point of an inflammatory nucleus says that it is one of four types
without saying which: the loss then is the negative logarithm of the sum of the four probabilities.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pictures import INFLAMMATORY, UNTYPED, pictures
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from nasdm_wsi.model.devices import native_bfloat16
from nasdm_wsi.model.evaluation.segmenter import CENTRE_SPREAD, TYPES, UNKNOWN, Segmenter

SIZE = 128  # pixels; side of a training crop
BATCH = 12
RATE = 2e-3
MEMORY = 0.995  # of the averaged weights, a step
# About the inverse root of the share of a type among the pixels of nuclei in the crops.
#                            bg neut  epi  lym  pla  eos  con  infl none
TYPE_WEIGHTS = torch.tensor([0, 5.0, 0.6, 1.8, 3.2, 5.0, 1.0, 1.4, 0.0])
MEMBERS = torch.zeros(9, TYPES)  # which types a label code allows
for _code in range(1, 7):
    MEMBERS[_code, _code - 1] = 1
MEMBERS[INFLAMMATORY, [0, 2, 3, 4]] = 1
MEMBERS[[0, UNTYPED]] = 1
HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])  # Ruifrok


@dataclass
class Sample:
    """A picture to train on.

    image uint8 (h, w, 3). labels uint8 (h, w, 4): nucleus (0, 1, 255 unknown), type code (0..8,
    255), depth and centre (255 = one). ``by_type`` maps each type code that is there to the
    centres (n, 2) of its nuclei; ``points``: whether the labels are points alone.
    """

    image: np.ndarray
    labels: np.ndarray
    by_type: dict[int, np.ndarray]
    points: bool


def full_sample(
    image: np.ndarray,
    types: np.ndarray,
    instances: np.ndarray,
    held_out: tuple[int, int, int, int],
    *,
    lymphocyte: int = 3,
) -> Sample:
    """From types and instances (h, w); the box ``held_out`` (y0, x0, y1, x1) becomes unknown.

    ``lymphocyte``: the code for type 3; `INFLAMMATORY` where a set does not tell these apart.
    """
    labels = np.zeros((*types.shape, 4), np.uint8)
    unknown = types == UNKNOWN
    y0, x0, y1, x1 = held_out
    unknown[y0:y1, x0:x1] = True
    code = np.where(types == 3, lymphocyte, types)
    labels[..., 0] = np.where(unknown, UNKNOWN, types > 0)
    labels[..., 1] = np.where(unknown, UNKNOWN, code)
    centres, kinds = [], []
    for k, where in enumerate(ndimage.find_objects(instances), 1):
        if where is None:
            continue
        mask = np.pad(instances[where] == k, 1)
        depth = ndimage.distance_transform_edt(mask)[1:-1, 1:-1]
        mask = mask[1:-1, 1:-1]
        labels[where][..., 2][mask] = np.rint(255 * depth[mask] / depth.max())
        y, x = (s.mean() for s in np.nonzero(mask))
        centres.append((where[0].start + y, where[1].start + x))
        kinds.append(code[where][mask][0])
    _draw_bumps(labels[..., 3], centres)
    centres, kinds = np.array(centres).reshape(-1, 2), np.array(kinds)
    inside = ~unknown[tuple(np.int64(centres).T)]
    by_type = {int(k): centres[inside & (kinds == k)] for k in np.unique(kinds[inside])}
    return Sample(image, labels, by_type, points=False)


def point_sample(image: np.ndarray, centres: np.ndarray, codes: np.ndarray) -> Sample:
    """From centres (n, 2) as y, x and type codes (n,), 1..8.

    Pixels within 3 of a centre are nucleus, beyond 16 background, and unknown between.
    """
    shape = image.shape[:2]
    labels = np.zeros((*shape, 4), np.uint8)
    grid = np.zeros(shape, np.int32)
    at = np.clip(np.rint(centres).astype(int), 0, np.array(shape) - 1)
    grid[tuple(at.T)] = np.arange(1, len(at) + 1)
    away, nearest = ndimage.distance_transform_edt(grid == 0, return_indices=True)
    code = np.concatenate([[0], codes]).astype(np.uint8)[grid[tuple(nearest)]]
    labels[..., 0] = np.where(away <= 3, 1, np.where(away > 16, 0, UNKNOWN))
    labels[..., 1] = np.where(away <= 3, code, np.where(away > 16, 0, UNKNOWN))
    _draw_bumps(labels[..., 3], centres)
    return Sample(image, labels, {int(k): at[codes == k] for k in np.unique(codes)}, points=True)


def _draw_bumps(canvas: np.ndarray, centres, reach: int = 7) -> None:
    """Gaussian bumps of height 255 at ``centres`` (y, x) into uint8 (h, w), the larger wins."""
    for y, x in centres:
        y0, x0 = max(int(y) - reach, 0), max(int(x) - reach, 0)
        part = canvas[y0 : int(y) + reach + 1, x0 : int(x) + reach + 1]
        yy, xx = np.ogrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
        bump = 255 * np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * CENTRE_SPREAD**2))
        np.maximum(part, np.rint(bump).astype(np.uint8), out=part)


def crops(
    groups: list[tuple[float, list[Sample]]], rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Endless crops: image uint8 (s, s, 3), labels uint8 (s, s, 4), whether points alone.

    ``groups``: weights and their samples. Half the crops lie anywhere (larger pictures more
    often), half at a nucleus whose type was drawn first, each type as likely. Crops are scaled by
    0.87 to 1.15, mirrored and turned.
    """
    share = np.array([w for w, _ in groups])
    areas = [np.array([(s.labels[..., 0] != UNKNOWN).sum() for s in g], float) for _, g in groups]
    pools = [
        {kind: [(s, c) for s in group for c in s.by_type.get(kind, ())] for kind in range(1, 8)}
        for _, group in groups
    ]
    while True:
        g = rng.choice(len(groups), p=share / share.sum())
        group = groups[g][1]
        side = round(SIZE * np.exp(rng.uniform(-0.14, 0.14)))
        kinds = [k for k, v in pools[g].items() if v]
        if rng.random() < 0.5:
            pool = pools[g][kinds[rng.integers(len(kinds))]]
            sample, centre = pool[rng.integers(len(pool))]
            corner = np.asarray(centre) - rng.integers(10, side - 10, 2)
        else:
            sample = group[rng.choice(len(group), p=areas[g] / areas[g].sum())]
            corner = rng.random(2) * (np.array(sample.image.shape[:2]) - side)
        h, w = sample.image.shape[:2]
        y, x = (int(np.clip(c, 0, max(s - side, 0))) for c, s in zip(corner, (h, w), strict=True))
        image, labels = (a[y : y + side, x : x + side] for a in (sample.image, sample.labels))
        if image.shape[:2] != (side, side) or (labels[..., 0] == UNKNOWN).mean() > 0.9:
            continue
        k = int(rng.integers(8))
        image, labels = (np.rot90(a[:, ::-1] if k & 4 else a, k % 4) for a in (image, labels))
        image = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        image = F.interpolate(image, size=(SIZE, SIZE), mode="bilinear", antialias=False)[0]
        grid = ((np.arange(SIZE) + 0.5) * side / SIZE).astype(int)
        yield image, torch.from_numpy(labels[grid][:, grid].copy()), sample.points


def change_stain(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """RGB (n, 3, s, s) in 0..1 of RGB in 0..255, with other stain, brightness, blur and noise."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=rgb.device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=rgb.device)

    n = len(rgb)
    vectors = F.normalize(HED.to(rgb.device), dim=1)
    matrix = torch.diag_embed((0.28 * normal(n, 3)).exp()) + 0.07 * normal(n, 3, 3)
    matrix = torch.linalg.inv(vectors) @ matrix @ vectors  # (n, 3, 3), on optical density
    density = -(rgb.clamp(1, 255) / 255).log()
    density = torch.einsum("nchw,ncd->ndhw", density, matrix)
    density = density + 0.06 * uniform(n, 3, 1, 1)
    density = density * (0.1 * normal(n, 1, 1, 1)).exp()
    out = (-density).exp().clamp(0, 1)
    blur = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mix = (uniform(n, 1, 1, 1) * 1.8 - 0.9).clamp(-0.4, 0.9)
    out = out + mix * (blur - out)  # negative: sharper
    out = out + 0.02 * uniform(n, 1, 1, 1) * normal(*out.shape)
    return out.clamp(0, 1)


def loss_of(logits: Tensor, labels: Tensor, points: Tensor) -> Tensor:
    """The loss of logits (n, 9, s, s) against labels uint8 (n, s, s, 4) and points bool (n,)."""
    nucleus, code, depth, centre = labels.unbind(-1)
    known = (nucleus != UNKNOWN).float()
    truth = (nucleus == 1).float()
    pointed = points[:, None, None].float()
    cost = F.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none")
    total = (cost * known).sum() / known.sum()
    p, whole = logits[:, 0].sigmoid() * known, known * (1 - pointed)
    overlap = 2 * (p * truth * whole).sum() / ((p * whole).sum() + (truth * whole).sum() + 1)
    total = total + 1 - overlap
    whole = known * (1 - pointed * truth)  # the depth at a point is unknown
    miss = (logits[:, 1].sigmoid() - depth / 255).square()
    total = total + 4 * (miss * whole).sum() / whole.sum()
    seen = torch.maximum(known, pointed)
    cost = F.binary_cross_entropy_with_logits(logits[:, 2], centre / 255, reduction="none")
    total = total + 3 * (cost * seen).sum() / seen.sum()
    code = torch.where(code == UNKNOWN, 0, code).long()
    weight = TYPE_WEIGHTS.to(code.device)[code] * (
        1 + 3 * pointed
    )  # a point is a small part of its nucleus
    allowed = MEMBERS.to(code.device)[code].permute(0, 3, 1, 2)
    likely = (logits[:, 3:].log_softmax(1) + allowed.clamp(min=1e-9).log()).logsumexp(1)
    return total + 0.8 * (-likely * weight).sum() / weight.sum().clamp(min=1)


def train(
    groups: list[tuple[float, list[Sample]]],
    out: Path,
    *,
    minutes: float,
    init: Path | None = None,
    rate: float = RATE,
) -> Segmenter:
    """Train for ``minutes`` of wall time and write ``out`` (float16 safetensors).

    ``init``: weights to go on from. ``rate``: the highest learning rate, which falls to 0.
    """
    start = time.monotonic()

    def done(step: int) -> float:
        return (time.monotonic() - start) / (60 * minutes)

    model = fit(groups, done, init=init, rate=rate, save=lambda state: _save(state, out))
    _save(model.state_dict(), out)
    return model


def fit(
    groups: list[tuple[float, list[Sample]]],
    done: Callable[[int], float],
    *,
    seed: int = 0,
    device: str = "cpu",
    batch: int = BATCH,
    init: Path | None = None,
    rate: float = RATE,
    save: Callable[[dict[str, Tensor]], None] = lambda state: None,
) -> Segmenter:
    """Train on samples; ``done`` gives the share of the training that is behind at a step, 0 to 1.

    ``groups``: as for `crops`. ``init``, ``rate``: as for `train`. ``save`` receives the averaged
    weights every 500 steps. The same arguments give the same weights on the same kind of machine.
    """
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    model = Segmenter().to(device, memory_format=torch.channels_last)
    reduced = native_bfloat16(torch.device(device))
    with torch.no_grad():  # most pixels are neither nucleus nor centre
        model.head.bias[:12] = -2.0
    if init:
        model.load_state_dict({k: v.float() for k, v in load_file(init).items()}, strict=False)
    network = _graphed(model, batch) if device == "cuda" else model
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=rate, weight_decay=1e-2, fused=device == "cuda"
    )
    averaged = {k: v.clone() for k, v in model.state_dict().items()}
    source = crops(groups, np.random.default_rng(seed))
    start, step, mean = time.monotonic(), 0, None
    while (share := done(step)) < 1:
        now = rate * min(1, (step + 1) / 30) * (0.5 + 0.5 * np.cos(np.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = now
        images, labels, points = zip(*(next(source) for _ in range(batch)), strict=True)
        seen = change_stain(torch.stack(images).to(device), generator)
        with torch.autocast(device, torch.bfloat16, enabled=reduced, cache_enabled=device == "cpu"):
            logits = network(seen.contiguous(memory_format=torch.channels_last))
        told = torch.stack(labels).to(device), torch.tensor(points, device=device)
        loss = loss_of(logits.float(), *told)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
        keep = min(MEMORY, 1 - 1 / step)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged[name].lerp_(value, 1 - keep)
        # Not yet a number: on a GPU that would wait for it.
        mean = loss.detach() if mean is None else mean.lerp(loss.detach(), 0.05)
        if step in (1, 10) or step % 100 == 0:
            print(f"{time.monotonic() - start:6.0f} s  step {step}  loss {mean:.3f}", flush=True)
        if step % 500 == 0:
            save(averaged)
    model.load_state_dict(averaged)
    return model.eval()


def _graphed(model: Segmenter, batch: int) -> nn.Module:
    """Return the network in training as a CUDA graph, which saves most of the launches."""
    example = torch.rand(batch, 3, SIZE, SIZE, device="cuda")
    example = example.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        return torch.cuda.make_graphed_callables(model, (example,))


def _save(state: dict[str, Tensor], out: Path) -> None:
    part = out.with_suffix(".part")
    save_file({k: v.half().contiguous() for k, v in state.items() if v.is_floating_point()}, part)
    part.replace(out)


def read_groups(data: Path) -> list[tuple[float, list[Sample]]]:
    """Lizard, CoNSeP and CRCHistoPhenotypes with their weights in training."""
    sets: dict[str, list[Sample]] = {"lizard": [], "consep": [], "crc": []}
    for picture in pictures(data, *sets):
        image = picture.rgb()
        if picture.set == "crc":
            sample = point_sample(image, *picture.points())
        else:
            lymphocyte = 3 if picture.set == "lizard" else INFLAMMATORY
            sample = full_sample(
                image, *picture.nuclei(), picture.held_out(), lymphocyte=lymphocyte
            )
        sets[picture.set].append(sample)
    return list(zip((0.62, 0.22, 0.16), sets.values(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--init", type=Path, help="weights to go on from")
    parser.add_argument("--rate", type=float, default=RATE)
    options = parser.parse_args()
    groups = read_groups(options.data)
    train(
        groups,
        options.weights,
        minutes=options.minutes,
        init=options.init,
        rate=options.rate,
    )


if __name__ == "__main__":
    main()
