"""Evidence for epithelium in pictures of colon: a small U-Net on stain and on SHELL.

    python benchmarks/labels/glands.py prepare DATA CACHE --shell model_v1.onnx
    python benchmarks/labels/glands.py train CACHE WEIGHTS --seconds 900
    python benchmarks/labels/glands.py apply CACHE WEIGHTS

It works at 1 micrometre a pixel. `prepare` writes CACHE/u-KEY.npz: stain amounts, probabilities of
SHELL (package lavlab-shell) and, to train on, where there is gland: the masks of
GlaS, else the epithelial against other nuclei. `apply` writes CACHE/g-KEY.npy, probabilities of
gland. Optical density is -log10(rgb / 255) here.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from masks import erode, resize
from pictures import INFLAMMATORY, Picture, glas_rows, pictures
from scipy import ndimage
from torch import Tensor, nn

UNPUBLISHED = 255
TURN = ("glas", "glas", "glas", "glas", "lizard", "lizard", "consep", "crc")  # sets in a batch
HELD_OUT = {"lizard": 3, "consep": 3, "glas": 12, "crc": 8}  # pictures kept for judging
SIDE = 192  # pixels of a training crop
RATE = 3e-3


def read(picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Pixels (h, w, 3), published (h, w), nuclei types (h, w) or None, gland mask (h, w) or None.

    Points of nuclei become discs. Unpublished pixels repeat the nearest published one.
    """
    rgb = picture.rgb()
    published = np.ones(rgb.shape[:2], bool)
    if picture.set == "glas":
        return rgb, published, None, picture.glands()
    if picture.set == "crc":
        types = np.zeros(rgb.shape[:2], np.uint8)
        for (y, x), code in zip(*picture.points(), strict=True):
            kind = {INFLAMMATORY: 3, 2: 2, 6: 6}.get(int(code))
            if kind:
                cv2.circle(types, (int(x), int(y)), 5, kind, -1)
        return rgb, published, types, None
    types, _ = picture.nuclei()
    published = types != UNPUBLISHED
    if picture.scale != 1:
        published = erode(published, 1)
    if not published.all():
        near = ndimage.distance_transform_edt(
            ~published, return_distances=False, return_indices=True
        )
        rgb = rgb[tuple(near)]
    return rgb, published, np.where(published, types, 0).astype(np.uint8), None


def stain_vectors(density: np.ndarray) -> np.ndarray:
    """Macenko's haematoxylin, eosin and their normal, unit rows (3, 3), of densities (n, 3)."""
    tissue = density[density.mean(1) > 0.06]
    tissue = tissue if len(tissue) >= 500 else density
    plane = np.linalg.eigh(np.cov(tissue.T))[1][:, [2, 1]]
    plane *= np.where(plane[0] < 0, -1, 1)
    angles = np.arctan2(tissue @ plane[:, 1], tissue @ plane[:, 0])
    ends = [plane @ [np.cos(a), np.sin(a)] for a in np.percentile(angles, [1, 99])]
    h, e = sorted(ends, key=lambda v: -v[0])
    normal = np.cross(h, e)
    return np.stack([v / np.linalg.norm(v) for v in (h, e, normal)])


class Part:
    """A picture at 1 micrometre a pixel: its density, and what the network is to learn."""

    def __init__(self, picture: Picture):
        rgb, published, nuclei, glands = read(picture)
        self.key, size = picture.key, (rgb.shape[1] // 2, rgb.shape[0] // 2)
        white = np.clip(np.percentile(rgb[published], 98, axis=0), 200, 255)
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        self.density = -np.log10(np.clip(small / white, 1 / 255, 1)).astype(np.float32)
        self.seen = resize(published, size, cv2.INTER_NEAREST) > 0
        self.target = np.zeros(self.seen.shape, np.uint8)
        self.weight = np.zeros(self.seen.shape, np.float16)
        if glands is not None:
            soft = resize(glands, size, cv2.INTER_AREA)
            self.target, self.weight[:] = (soft > 0.5).astype(np.uint8), 1
            self.weight[(soft > 0) & (soft < 1)] = 0.3
        else:
            types = nuclei[: size[1] * 2 : 2, : size[0] * 2 : 2]
            self.target[types == 2] = 1
            for kinds, value in (((2,), 1.5), ((6,), 3), ((3, 4), 0.7)):
                self.weight[np.isin(types, kinds)] = value
        self.weight[~self.seen] = 0

    def inputs(self, unmix: np.ndarray, top: np.ndarray) -> np.ndarray:
        """Amounts of eosin and haematoxylin and density, float32 (3, h, w), 1 at ``top``."""
        amounts = self.density @ unmix
        x = np.stack([amounts[..., 1], amounts[..., 0], self.density.mean(-1)]) / top
        return x.clip(-0.2, 1.5).astype(np.float32)


def stain_group(picture: Picture) -> str:
    """Pictures of one stain: all of Lizard (normalised), a patient of GlaS, else one picture."""
    if picture.set == "lizard":
        return "lizard"
    if picture.set == "glas":
        return f"patient {glas_rows(picture.data)[picture.name]['patient']}"
    return picture.key


def prepare(data: Path, cached: Path, model: Path) -> None:
    """Write CACHE/u-KEY.npz of every picture: x (6, h, w), t (h, w) gland or not, w its weight."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    shell = onnxruntime.InferenceSession(str(model), options)
    groups: dict[str, list[Picture]] = {}
    for picture in pictures(data):
        groups.setdefault(stain_group(picture), []).append(picture)
    for group in groups.values():
        parts = [Part(picture) for picture in group]
        pool = np.concatenate([part.density[part.seen][::4] for part in parts])
        unmix = np.linalg.pinv(stain_vectors(pool))
        top = np.percentile(pool @ unmix, 99, axis=0)
        top = np.array([top[1], top[0], np.percentile(pool.mean(1), 99)])[:, None, None]
        for part in parts:
            x = part.inputs(unmix, top)
            x = np.concatenate([x, shell_probabilities(shell, x)]).astype(np.float16)
            np.savez(cached / f"u-{part.key}.npz", x=x, t=part.target, w=part.weight)


def shell_probabilities(shell, x: np.ndarray) -> np.ndarray:
    """SHELL's lumen, epithelium and stroma (3, h, w) of amounts (3, h, w); it sees 2 mpp."""
    h, w = x.shape[1:]
    half = np.stack([resize(c, (w // 2, h // 2), cv2.INTER_AREA) for c in x.clip(0, 1)])
    rows, columns = half.shape[1:]
    pad = ((0, 0), (32, 32 + -rows % 64), (32, 32 + -columns % 64))
    logits = shell.run(None, {"input": np.pad(half, pad, "symmetric")[None]})[0][0]
    probability = 1 / (1 + np.exp(-logits[:, 32 : 32 + rows, 32 : 32 + columns]))
    return np.stack([resize(c, (w, h)) for c in probability])


def block(inputs: int, outputs: int) -> nn.Module:
    """Two convolutions, each normalised."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(True),
    )


class Glands(nn.Module):
    """A U-Net from (n, 6, h, w), h and w multiples of 16, to log odds of gland (n, h, w)."""

    def __init__(self, widths: tuple[int, ...] = (12, 24, 40, 64, 64)):
        super().__init__()
        pairs = list(zip(widths, widths[1:], strict=False))
        ins = (6, *widths[:-1])
        self.d = nn.ModuleList(block(i, o) for i, o in zip(ins, widths, strict=True))
        self.u = nn.ModuleList(block(a + b, a) for a, b in pairs)
        self.o = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, down in enumerate(self.d):
            x = down(nn.functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for level in reversed(range(len(self.u))):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = self.u[level](torch.cat([kept[level], x], 1))
        return self.o(x)[:, 0]


@torch.inference_mode()
def probability(network: Glands, x: np.ndarray) -> np.ndarray:
    """Probability of gland (h, w) of inputs (6, h, w)."""
    h, w = x.shape[1:]
    pad = ((0, 0), (16, 16 + -h % 16), (16, 16 + -w % 16))
    padded = np.pad(x.astype(np.float32), pad, "symmetric")
    odds = network(torch.from_numpy(padded)[None])
    return torch.sigmoid(odds)[0, 16 : 16 + h, 16 : 16 + w].numpy()


def crop(x: np.ndarray, t: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop of inputs, target and weight, (8, SIDE, SIDE), turned, flipped and restained."""
    for _ in range(8):
        y0, x0 = (rng.integers(0, max(1, size - SIDE + 1)) for size in t.shape)
        cut = np.s_[..., y0 : y0 + SIDE, x0 : x0 + SIDE]
        if w[cut].astype(np.float32).sum() > 300:
            break
    stack = np.concatenate([x[cut], t[cut][None], w[cut][None]]).astype(np.float32)
    pad = [(0, 0)] + [(0, SIDE - size) for size in stack.shape[1:]]
    stack = np.rot90(np.pad(stack, pad, "reflect"), rng.integers(4), (1, 2))
    stack = stack[..., :: rng.choice([-1, 1])].copy()
    amounts = rng.uniform(0.7, 1.3, (3, 1, 1))
    stack[:3] = stack[:3] * amounts + rng.uniform(-0.05, 0.05, (3, 1, 1))
    if rng.random() < 0.3:  # do not lean on SHELL alone
        stack[3:6] = rng.choice([0.33, stack[3:6].mean()])
    return stack


def train(cached: Path, weights: Path, seconds: float, init: Path | None) -> None:
    """Train for so many seconds, write the weights, and print how good they are where kept."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sets: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in HELD_OUT}
    for path in sorted(cached.glob("u-*.npz")):
        with np.load(path) as file:
            sets[path.name.split("-")[1]].append((file["x"], file["t"], file["w"]))
    held = {}
    for name, count in HELD_OUT.items():
        order = rng.permutation(len(sets[name]))
        held[name] = [sets[name][i] for i in order[:count]]
        sets[name] = [sets[name][i] for i in order[count:]]

    network = Glands()
    if init:
        network.load_state_dict(torch.load(init, weights_only=True))
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    began, step = time.monotonic(), 0
    while (part := (time.monotonic() - began) / seconds) < 1:
        rate = RATE * min(1, (step + 1) / 30) * (0.51 + 0.49 * np.cos(np.pi * part))
        optimiser.param_groups[0]["lr"] = rate
        drawn = [crop(*sets[name][rng.integers(len(sets[name]))], rng) for name in TURN]
        batch = torch.from_numpy(np.stack(drawn))
        x, target, weight = batch[:, :6], batch[:, 6], batch[:, 7]
        loss = nn.functional.binary_cross_entropy_with_logits(
            network(x), target * 0.96 + 0.02, weight, reduction="sum"
        )
        optimiser.zero_grad()
        (loss / weight.sum()).backward()
        optimiser.step()
        step += 1
    torch.save(network.state_dict(), weights)
    judge(network.eval(), held)


def judge(network: Glands, held: dict[str, list[tuple[np.ndarray, ...]]]) -> None:
    """Print Dice and the share of pixels that are right, over labelled pixels of each set."""
    for name, pictures_held in held.items():
        both = either = right = total = 0
        for x, t, w in pictures_held:
            found, true, seen = probability(network, x) > 0.5, t > 0, w > 0
            both += (found & true & seen).sum()
            either += (found & seen).sum() + (true & seen).sum()
            right, total = right + ((found == true) & seen).sum(), total + seen.sum()
        print(f"{name}: Dice {2 * both / either:.3f}, right {right / total:.1%}")


def apply(cached: Path, weights: Path) -> None:
    """Write CACHE/g-KEY.npy: probability of gland, float16 (h, w)."""
    network = Glands()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    for path in sorted(cached.glob("u-*.npz")):
        with np.load(path) as file:
            found = probability(network, file["x"])
        np.save(cached / f"g-{path.stem[2:]}.npy", found.astype(np.float16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["prepare", "train", "apply"])
    parser.add_argument("first", type=Path, help="DATA to prepare, else CACHE")
    parser.add_argument("second", type=Path, help="CACHE to prepare, else WEIGHTS")
    parser.add_argument("--shell", type=Path, help="SHELL's network")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--init", type=Path, help="weights to go on from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "prepare":
        options.second.mkdir(parents=True, exist_ok=True)
        prepare(options.first, options.second, options.shell)
    elif options.command == "train":
        train(options.first, options.second, options.seconds, options.init)
    else:
        apply(options.first, options.second)


if __name__ == "__main__":
    main()
