"""Effect of JPEG compression on real pictures.

    python benchmarks/jpeg.py data/colon

Held-out pixels are encoded as `render --quality` does, decoded, and compared with themselves.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imagecodecs
from measure import machine, table
from scenes import Scenes

from nasdm_wsi.model.evaluation.distances import frechet_distance, kernel_distance
from nasdm_wsi.slides.pyramid import Pyramid

QUALITIES = (75, 85, 89, 90, 95, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    options = parser.parse_args()
    print(machine("imagecodecs"))
    scenes, rows = Scenes(options.dataset, grid=1), []
    real = scenes.features(scenes.real)
    for quality in QUALITIES:
        pyramid = Pyramid((512, 512, 3), quality=quality)
        tiles = [pyramid.encode(picture) for picture in scenes.real]
        decoded = [
            imagecodecs.jpeg8_decode(tile)[: picture.shape[0], : picture.shape[1]]
            for tile, picture in zip(tiles, scenes.real, strict=True)
        ]
        seen = scenes.features(decoded)
        megabytes = sum(map(len, tiles)) / 1e6
        distances = frechet_distance(real, seen), kernel_distance(real, seen)
        rows.append((quality, pyramid.subsampling, megabytes, *distances))
    head = ("quality", "colour halved", "MB", f"Fréchet distance ({scenes.measured_by})")
    table((*head, "kernel distance"), rows)


if __name__ == "__main__":
    main()
