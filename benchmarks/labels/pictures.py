"""Pictures of colon and their labels, all brought to 0.5 micrometres a pixel.

    python benchmarks/labels/pictures.py DATA PICTURES NUCLEI

DATA holds lizard-regions (NAME.png and NAME_classes.png), consep-20x (images and labels), glas
(images, glands and pictures.json) and crc-histo (NAME.webp and NAME.json with points). PICTURES
receives links named SET-NAME, NUCLEI the labels that Lizard and CoNSeP publish, as NAME.npz.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from nasdm_wsi.annotations.labels import split_touching
from nasdm_wsi.annotations.lizard import read_mat_labels
from nasdm_wsi.tools.dataset import UNPUBLISHED
from nasdm_wsi.tools.prepare import HELD_OUT, held_out_box

INFLAMMATORY = 7  # neutrophil, lymphocyte, plasma or eosinophil
UNTYPED = 8  # a nucleus of unknown type
POINT_KINDS = {"epithelial": 2, "fibroblast": 6, "inflammatory": INFLAMMATORY}
SAME_POINT = 3  # pixels; two lists of clicks on one nucleus differ by less
SETS = ("lizard", "consep", "glas", "crc")
INK = {f"train_{k}" for k in (2, 4, 12, 15)}  # of CoNSeP
LEFT_OUT = {*INK, "train_16", "train_27"}  # the last two are in Lizard as well
GLAS_SCALE, CRC_SCALE = 1.24, 1.1  # scanned at 0.62 and 0.55 micrometres a pixel


@dataclass(frozen=True)
class Picture:
    """set: lizard, consep, glas or crc. scale: enlargement to 0.5 micrometres a pixel."""

    data: Path
    set: str
    path: Path
    scale: float

    @property
    def name(self) -> str:
        """Name in its set."""
        return self.path.stem

    @property
    def key(self) -> str:
        """Name among all pictures."""
        return f"{self.set}-{self.name}"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at 0.5 micrometres a pixel."""
        w, h = Image.open(self.path).size
        return round(h * self.scale), round(w * self.scale)

    def rgb(self) -> np.ndarray:
        """The pixels, uint8 (h, w, 3)."""
        image = Image.open(self.path).convert("RGB")
        if self.scale != 1:
            image = image.resize(self.size[::-1], Image.Resampling.BICUBIC)
        return np.array(image)

    def nuclei(self) -> tuple[np.ndarray, np.ndarray]:
        """Published types uint8 (h, w), 255 where there are none, and instances int32 (h, w)."""
        if self.set == "consep":
            labels = self.data / f"consep-20x/labels/{self.name}.mat"
            instances, types = read_mat_labels(labels)
            return types, instances
        types = np.array(self._scaled(self.path.with_name(f"{self.name}_classes.png")))
        return types, split_touching(types)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres float (n, 2) as y, x and codes (n,) of the points of a CRCHistoPhenotypes one."""
        content = json.loads(self.path.with_suffix(".json").read_text())
        codes = {tuple(point): UNTYPED for point in content["detection"]}
        for kind in ("others", *POINT_KINDS):
            for x, y in content.get(kind, []):
                away = {(u, v): (abs(u - x), abs(v - y)) for u, v in codes}
                near = [p for p, gaps in away.items() if max(gaps) < SAME_POINT]
                point = min(near, key=lambda p, away=away: sum(away[p])) if near else (x, y)
                codes[point] = POINT_KINDS.get(kind, UNTYPED)
        centres = np.array([(y, x) for x, y in codes], float).reshape(-1, 2)
        return centres * self.scale, np.array(list(codes.values()), np.int64)

    def glands(self) -> np.ndarray:
        """The gland mask of a GlaS picture, bool (h, w)."""
        return np.array(self._scaled(self.data / f"glas/glands/{self.name}.png").convert("L")) > 0

    def held_out(self) -> tuple[int, ...]:
        """The box (y0, x0, y1, x1) of a Lizard or CoNSeP picture that is kept for judging."""
        published = np.ones(Image.open(self.path).size[::-1], bool)
        if self.set == "lizard":
            classes = self.path.with_name(f"{self.name}_classes.png")
            published = np.array(Image.open(classes)) != UNPUBLISHED
        box = held_out_box(published, HELD_OUT, self.name, 0)
        return tuple(round(edge * self.scale) for edge in box)

    def _scaled(self, path: Path) -> Image.Image:
        return Image.open(path).resize(self.size[::-1], Image.Resampling.NEAREST)


@cache
def glas_rows(data: Path) -> dict[str, dict]:
    """What is known of each picture of GlaS: patient, grade, and its copy in Lizard."""
    return json.loads((data / "glas/pictures.json").read_text())


def pictures(data: Path, *sets: str, copies: bool = False) -> list[Picture]:
    """The pictures of some sets, by default all.

    Without ``copies`` those left out or doubled are not among them.
    """
    found = []
    for path in sorted((data / "lizard-regions").glob("*.png")):
        if not path.stem.endswith("_classes"):
            scale = GLAS_SCALE if path.stem.startswith("glas_") else 1.0
            found.append(Picture(data, "lizard", path, scale))
    for path in sorted((data / "consep-20x/images").glob("*.png")):
        if copies or path.stem not in LEFT_OUT:
            found.append(Picture(data, "consep", path, 1.0))
    for path in sorted((data / "glas/images").iterdir()):
        if copies or "lizard" not in glas_rows(data)[path.stem]:
            found.append(Picture(data, "glas", path, GLAS_SCALE))
    for path in sorted((data / "crc-histo").glob("*.webp")):
        found.append(Picture(data, "crc", path, CRC_SCALE))
    return [picture for picture in found if not sets or picture.set in sets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "pictures", "nuclei"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    for folder in (options.pictures, options.nuclei):
        folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures(options.data):
        link = options.pictures / f"{picture.key}{picture.path.suffix}"
        link.symlink_to(picture.path.resolve())
        if picture.set in ("lizard", "consep"):
            types, instances = picture.nuclei()
            target = options.nuclei / f"{picture.key}.npz"
            np.savez_compressed(target, types=types, instances=instances.astype(np.int32))


if __name__ == "__main__":
    main()
