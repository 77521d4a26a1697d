"""Kill a program at each of its calls that change files, one after the other.

    python kills.py SCENARIO FOLDER

A scenario does something in an empty folder, and knows what must be true after a kill at any call
and another run. Each run is a child of this process, so that nothing is imported twice. Prints at
how many calls the program was killed.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import shapely
import toy

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.errors import OutputError
from nasdm_wsi.rendering import plan_render, render

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
KILLED = 9  # exit status


class Killer:
    """Ends this process at the n-th call that changes files."""

    def __init__(self, n: int):
        self.left = n
        self.open, self.fsync = io.open, os.fsync

    def arm(self) -> None:
        """Begin to count."""
        sys.addaudithook(self._audit)
        os.fsync = self._fsync
        builtins.open = io.open = self._open

    def tick(self, last_words: Callable[[], object] = lambda: None) -> None:
        """Count a call; ``last_words`` is what is still done of the last one."""
        self.left -= 1
        if not self.left:
            last_words()
            os._exit(KILLED)

    def _audit(self, event: str, arguments: tuple) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & WRITES):
            self.tick()

    def _fsync(self, number: int) -> None:
        self.tick()
        self.fsync(number)

    def _open(self, file, mode="r", *arguments, **options):
        if mode != "wb" or arguments or options:
            return self.open(file, mode, *arguments, **options)
        return io.BufferedWriter(_Half(file, self))


class _Half(io.FileIO):
    """A file of which the last write before a kill does only half."""

    def __init__(self, file, killer: Killer):
        super().__init__(file, "w")
        self.killer = killer

    def write(self, data) -> int:
        self.killer.tick(lambda: super(_Half, self).write(bytes(data)[: len(data) // 2]))
        return super().write(data)


def child(do: Callable[[], object], kill_at: int = 0) -> bool:
    """Run in a child; whether it ended by itself, which must then have been without an error."""
    pid = os.fork()
    if not pid:
        status = 0
        try:
            if kill_at:
                Killer(kill_at).arm()
            do()
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, KILLED):
        raise SystemExit(f"ended with {status}")
    return status == 0


def run_again(do: Callable[[], object]) -> None:
    """Run again what a kill may have hit when all was done."""
    try:
        do()
    except OutputError as error:
        assert "exists" in str(error)


class Scenario:
    """What is killed, and what must be true then."""

    def prepare(self, folder: Path) -> None:
        """Make what is there before."""

    def begin(self, folder: Path) -> None:
        """What is killed."""

    def check_at_once(self, folder: Path) -> None:
        """What must be true directly after the kill."""

    def again(self, folder: Path) -> None:
        """What is run after the kill."""

    def content(self, folder: Path) -> dict[str, bytes]:
        """All files and folders that are there."""
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
            for path in folder.rglob("*")
        }


class Render(Scenario):
    """A small slide is rendered with seed 1; then the same again, or another seed."""

    def __init__(self, name: str = "slide.ome.tif", *, older: bool = False, other: bool = False):
        self.name, self.older, self.other = name, older, other

    def prepare(self, folder: Path) -> None:
        if self.older:
            self._render(folder, seed=0)
            self.before = self._slide(folder)

    def begin(self, folder: Path) -> None:
        self._render(folder, seed=1, overwrite=self.older)

    def check_at_once(self, folder: Path) -> None:
        slide = self._slide(folder)
        if not slide:  # a folder takes the place of another in two steps
            assert not self.older or self.name.endswith("zarr")
            return
        self._render(reference := folder.with_name("reference"), seed=1)
        allowed = [self._slide(reference)] + ([self.before] if self.older else [])
        assert slide in allowed, "the slide is neither the old one nor the new one"

    def again(self, folder: Path) -> None:
        try:
            self._render(folder, seed=1 + self.other, overwrite=self.older or self.other)
        except OutputError as error:  # the kill came when all was done
            assert "exists" in str(error) and not (folder / f"{self.name}.run").exists()

    def _slide(self, folder: Path) -> dict[str, bytes]:
        content = self.content(folder).items()
        return {n: data for n, data in content if n == self.name or n.startswith(f"{self.name}/")}

    def _render(self, folder: Path, *, seed: int, overwrite: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        disks = shapely.buffer(shapely.points([[20, 20], [40, 30]]), 6)
        nuclei = Nuclei.from_polygons(disks, np.array([2, 2]), mpp=0.5)
        job = plan_render(nuclei, toy.ToyPainter(), size=(40, 60), seed=seed)
        out = folder / self.name
        render(job, out, workers=1, lossless=True, overwrite=overwrite)


class Edit(Scenario):
    """A part of a small slide is repainted; ``name`` decides whether a copy of it is changed."""

    def __init__(self, name: str):
        self.name = name

    def prepare(self, folder: Path) -> None:
        import torch
        from helpers import tissue

        from nasdm_wsi.checkpoints import Training
        from nasdm_wsi.model.checkpoint import save_weights
        from nasdm_wsi.model.config import PRESETS
        from nasdm_wsi.model.families import build
        from nasdm_wsi.model.planes import ALL_PLANES
        from nasdm_wsi.slides import ome_tiff

        ome_tiff.write(folder / "s.ome.tif", tissue(96, 96), mpp=0.5, description="", tile=64)
        torch.manual_seed(0)
        network = build(PRESETS["tiny-regions"].network)
        training = Training(preset="tiny-regions")
        save_weights(folder / "w.safetensors", network, training=training, planes=ALL_PLANES)

    def begin(self, folder: Path) -> None:
        from nasdm_wsi.editing.edit import edit, plan_edit
        from nasdm_wsi.model import Painter

        painter = Painter(folder / "w.safetensors", device="cpu", steps=1)
        nuclei = Nuclei.from_polygons(shapely.buffer(shapely.points([[40, 40]]), 6), [2], mpp=0.5)
        out, area = folder / self.name, shapely.box(30, 30, 50, 50)
        job = plan_edit(folder / "s.ome.tif", nuclei, area, painter, out=out)
        edit(job, out, workers=1)

    def again(self, folder: Path) -> None:
        run_again(partial(self.begin, folder))


class Many(Scenario):
    """Two small slides are rendered by one call."""

    def begin(self, folder: Path) -> None:
        from nasdm_wsi.tools.many import Order, render_many

        def plan(seed: int):
            disks = shapely.buffer(shapely.points([[20, 20], [40, 30]]), 6)
            nuclei = Nuclei.from_polygons(disks, np.array([2, 2]), mpp=0.5)
            return plan_render(nuclei, toy.ToyPainter(), size=(40, 60), seed=seed)

        orders = [Order(folder / f"{k}.ome.tif", partial(plan, k)) for k in range(2)]
        outcomes = render_many(orders, workers=1)
        assert not any(outcome.failure for outcome in outcomes), outcomes

    def again(self, folder: Path) -> None:
        self.begin(folder)


class Export(Scenario):
    """The tiles of two slides are exported to one set."""

    def prepare(self, folder: Path) -> None:
        from helpers import tissue

        from nasdm_wsi.annotations.geojson import write_geojson
        from nasdm_wsi.slides import ome_tiff

        nuclei = Nuclei.from_polygons(shapely.buffer(shapely.points([[40, 40]]), 6), [2], mpp=0.5)
        for name in "ab":
            ome_tiff.write(folder / f"{name}.ome.tif", tissue(96, 96), mpp=0.5, description="")
            write_geojson(folder / f"{name}.geojson", nuclei)

    def begin(self, folder: Path) -> None:
        from nasdm_wsi.tools.sets import export_set, find_sources

        sources = find_sources([folder / "a.ome.tif", folder / "b.ome.tif"])
        export_set(sources, folder / "tiles", form="lizard", tile=64, shares=(1, 1, 0))

    def again(self, folder: Path) -> None:
        run_again(partial(self.begin, folder))

    def content(self, folder: Path) -> dict[str, bytes]:
        """All files; what MATLAB's format says of the time is left out."""
        found = super().content(folder).items()
        return {name: data[128:] if name.endswith(".mat") else data for name, data in found}


class Prepare(Scenario):
    """A training set is prepared from two labelled pictures."""

    def prepare(self, folder: Path) -> None:
        from helpers import labelled_tissue
        from skimage.io import imsave

        (folder / "source").mkdir(parents=True)
        for name in "ab":
            image, _, types = labelled_tissue((64, 64), seed=ord(name))
            imsave(folder / f"source/{name}.png", image)
            imsave(folder / f"source/{name}_classes.png", types, check_contrast=False)

    def begin(self, folder: Path) -> None:
        from nasdm_wsi.tools.prepare import prepare

        prepare([folder / "source"], folder / "out")

    def again(self, folder: Path) -> None:
        run_again(partial(self.begin, folder))


class Checkpoint(Scenario):
    """A checkpoint takes the place of an older one."""

    def prepare(self, folder: Path) -> None:
        self._save(folder, 0.0)

    def begin(self, folder: Path) -> None:
        self._save(folder, 1.0)

    def check_at_once(self, folder: Path) -> None:
        from nasdm_wsi.model.checkpoint import load

        assert load(folder / "last.safetensors")[0]["x"].unique().numel() == 1

    def again(self, folder: Path) -> None:
        self.begin(folder)

    def _save(self, folder: Path, value: float) -> None:
        import torch

        from nasdm_wsi.model.checkpoint import header_of, save
        from nasdm_wsi.model.config import PRESETS
        from nasdm_wsi.model.local_unet import LocalUNet

        header = header_of(LocalUNet(PRESETS["tiny"].network))
        save(folder / "last.safetensors", {"x": torch.full((1000,), value)}, header)


SCENARIOS: dict[str, Scenario] = {
    "same": Render(),
    "other": Render(other=True),
    "over": Render(older=True),
    "zarr": Render("slide.ome.zarr"),
    "zarr over": Render("slide.ome.zarr", older=True),
    "edit": Edit("e.ome.tif"),
    "edit anew": Edit("e.dcm"),
    "many": Many(),
    "export": Export(),
    "prepare": Prepare(),
    "checkpoint": Checkpoint(),
}


def main(name: str, top: str, every: str = "1") -> None:
    """Kill at one call in ``every``, and at later ones until the program ends unharmed."""
    scenario, start, work = SCENARIOS[name], Path(top, "start"), Path(top, "work")
    start.mkdir(parents=True)
    scenario.prepare(start)
    shutil.copytree(start, work)
    child(partial(scenario.again, work))
    right, n, ended = scenario.content(work), 0, False
    while not ended:
        n += int(every)
        shutil.rmtree(work)
        shutil.copytree(start, work)
        ended = child(partial(scenario.begin, work), kill_at=n)
        child(partial(scenario.check_at_once, work))
        child(partial(scenario.again, work))
        found = scenario.content(work)
        if found != right:
            differ = sorted(k for k in {**found, **right} if found.get(k) != right.get(k))
            raise SystemExit(f"after a kill at call {n}: {', '.join(differ)}")
    print(n - int(every))


if __name__ == "__main__":
    main(*sys.argv[1:])
