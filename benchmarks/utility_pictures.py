"""Sets of labelled pictures for `utility.py`: real, painted in several ways, and pasted together.

`make_sets` writes SETS/NAME/PICTURE.webp with types and instances in PICTURE.npz:

    real      the pictures of Lizard and CoNSeP
    masks     the masks of real pictures, painted anew in the stain of each
    stains    the same masks, each in the stain of some other picture
    layouts   generated layouts of normal tissue, adenoma and carcinoma, half of them in Lizard's
              stain and half in that of some other picture
    rare      the same layouts with twice the neutrophils, plasma cells and eosinophils
    edits     real pictures into which nuclei of these three types were painted

"Some other picture" is one of GlaS or CRCHistoPhenotypes, which have no labelled nuclei.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pictures import INK, pictures
from PIL import Image

from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.editing import presets
from nasdm_wsi.editing.changes import changes
from nasdm_wsi.editing.edit import edited, plan_edit
from nasdm_wsi.errors import PlanError
from nasdm_wsi.layouts.making import layout
from nasdm_wsi.model import Painter
from nasdm_wsi.model.layouts.source import Learned
from nasdm_wsi.rendering import plan_render, read_annotations, render_region
from nasdm_wsi.slides.stain import style_vector
from nasdm_wsi.tools.dataset import UNPUBLISHED

MPP = 0.5
RARE = ("neutrophil", "plasma", "eosinophil")
TISSUES = ("normal", "adenoma", "carcinoma")
INSERTED = 10  # nuclei of each rare type in an edited picture, where there is room
EDIT_MARGIN = 4.0  # micrometres round a nucleus that are painted anew

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """A picture: image uint8 (h, w, 3), types uint8 and instances int32 (h, w).

    Types are `UNPUBLISHED` where nothing is known.
    """

    name: str
    image: np.ndarray
    types: np.ndarray
    instances: np.ndarray

    @property
    def collection(self) -> str:
        """Where it was published: crag, dpath, glas, consep or pannuke; "ink" for soiled tiles."""
        return collection_of(self.name)

    def cut(self, side: int) -> Labelled:
        """Return the square of at most ``side`` pixels that has most published pixels."""
        known = np.pad((self.types != UNPUBLISHED).cumsum(0).cumsum(1), [(1, 0), (1, 0)])
        h, w = (min(side, n) for n in self.types.shape)
        inside = known[h:, w:] - known[:-h, w:] - known[h:, :-w] + known[:-h, :-w]
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        part = np.s_[y : y + h, x : x + w]
        return replace(
            self, image=self.image[part], types=self.types[part], instances=self.instances[part]
        )

    @property
    def nuclei(self) -> Nuclei:
        """Its nuclei as outlines."""
        known = self.types != UNPUBLISHED
        return from_labels(self.instances * known, self.types * known, mpp=MPP)

    def write(self, folder: Path) -> None:
        """Write FOLDER/NAME.webp, of quality 95, and FOLDER/NAME.npz, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{self.name}.part"
        Image.fromarray(self.image).save(folder / f"{self.name}.webp", quality=95)
        with open(part, "wb") as file:
            labels = {"types": self.types, "instances": self.instances.astype(np.uint16)}
            np.savez_compressed(file, **labels)
        part.replace(folder / f"{self.name}.npz")


def collection_of(name: str) -> str:
    """The collection of a picture by its name."""
    collection, _, number = name.partition("-")
    if collection == "consep":
        return "ink" if number in INK else "consep"
    return number.split("_")[0]


def read_set(folder: Path) -> list[Labelled]:
    """Read the pictures of a set in the order of their names."""
    out = []
    for path in sorted(folder.glob("*.npz")):
        labels = np.load(path)
        image = np.array(Image.open(path.with_suffix(".webp")).convert("RGB"))
        out.append(
            Labelled(path.stem, image, labels["types"], labels["instances"].astype(np.int32))
        )
    return out


def real_pictures(data: Path) -> Iterator[Labelled]:
    """Read the labelled pictures of Lizard and CoNSeP; of two copies, that of Lizard."""
    soiled = [p for p in pictures(data, "consep", copies=True) if p.name in INK]
    for picture in [*pictures(data, "lizard", "consep"), *soiled]:
        types, instances = picture.nuclei()
        yield Labelled(picture.key, picture.rgb(), types, instances)


def other_styles(data: Path) -> np.ndarray:
    """Styles (n, 6) of the pictures of GlaS and CRCHistoPhenotypes."""
    return np.stack([style_vector(p.rgb()) for p in pictures(data, "glas", "crc")])


# Painted sets


@dataclass
class Studio:
    """What the painted sets are made with.

    styles: (n, 6), of other pictures. side: of painted pictures, in pixels. count: of layouts.
    """

    painter: Painter
    styles: np.ndarray
    side: int
    count: int

    def paint(self, name: str, nuclei: Nuclei, size: tuple[int, int], painter: Painter) -> Labelled:
        """Render nuclei; the labels are theirs."""
        job = plan_render(nuclei, painter, size=size, seed=zlib.crc32(name.encode()))
        instances, types = Conditioning(nuclei, size).labels((0, 0, *size))
        return Labelled(name, render_region(job), types, instances)

    def other_style(self, name: str) -> np.ndarray:
        """The style of some other picture, the same for the same name."""
        return self.styles[zlib.crc32(name.encode()) % len(self.styles)]

    def mask(self, real: Labelled, *, own_stain: bool) -> Labelled:
        """Paint a real picture anew from its mask; unpublished pixels stay so."""
        cut = real.cut(self.side)
        style = style_vector(real.image) if own_stain else self.other_style(real.name)
        painter = self.painter.restyled(style)
        painted = self.paint(real.name, cut.nuclei, cut.types.shape, painter)
        published = cut.types != UNPUBLISHED
        types = np.where(published, painted.types, UNPUBLISHED).astype(np.uint8)
        return replace(painted, image=painted.image * published[..., None], types=types)

    def layout(self, number: int, *, share: tuple[str, ...]) -> Labelled:
        """Paint a generated layout, every other one in Lizard's stain."""
        size = (self.side, self.side)
        with TemporaryDirectory() as folder:
            file = Path(folder, "layout.geojson")
            tissue = TISSUES[number % len(TISSUES)]
            layout(file, size, seed=number, tissue=tissue, share=share, populate=Learned)
            nuclei = read_annotations(file, mpp=MPP)
        name = f"layout-{number}"
        style = "lizard" if number // len(TISSUES) % 2 else self.other_style(name)
        return self.paint(name, nuclei, size, self.painter.restyled(style))

    def edit(self, real: Labelled) -> Labelled:
        """Insert nuclei of rare types into a real picture."""
        cut = real.cut(self.side)
        before = after = cut.nuclei
        rng = np.random.default_rng(zlib.crc32(real.name.encode()))
        published = cut.types != UNPUBLISHED

        def fits(outline) -> bool:
            y, x = (int(v) for v in (outline.centroid.y, outline.centroid.x))
            return 0 <= y < len(published) and 0 <= x < published.shape[1] and published[y, x]

        for kind in RARE:
            try:
                after = presets.insert(after, kind, INSERTED, rng=rng, fits=fits)
            except PlanError as error:
                log.warning("%s: %s", real.name, error)
        with TemporaryDirectory() as folder:
            file = Path(folder, "picture.png")
            Image.fromarray(cut.image).save(file)
            difference = changes(before, after)
            area = difference.area(EDIT_MARGIN)
            job = plan_edit(file, after, area, self.painter, mpp=MPP)
            image = edited(job, difference)
        size = cut.types.shape
        instances, types = Conditioning(after, size).labels((0, 0, *size))
        types = np.where(published, types, UNPUBLISHED).astype(np.uint8)
        return Labelled(real.name, image, types, instances)


def make_sets(data: Path, sets: Path, *, weights: str, side: int, count: int) -> None:
    """Write the sets that are missing; a set that was begun is continued."""
    if not list((sets / "real").glob("*.npz")):
        for picture in real_pictures(data):
            picture.write(sets / "real")
    real = [p for p in read_set(sets / "real") if p.collection != "ink"]
    twice = tuple(f"{kind}=2x" for kind in RARE)
    studio = Studio(Painter(weights), other_styles(data), side, count)
    ways: dict[str, list[tuple[str, Callable[[], Labelled]]]] = {
        "layouts": [(f"layout-{k}", partial(studio.layout, k, share=())) for k in range(count)],
        "masks": [(p.name, partial(studio.mask, p, own_stain=True)) for p in real],
        "stains": [(p.name, partial(studio.mask, p, own_stain=False)) for p in real],
        "rare": [(f"layout-{k}", partial(studio.layout, k, share=twice)) for k in range(count)],
        "edits": [(p.name, partial(studio.edit, p)) for p in real],
    }
    for way, wanted in ways.items():
        for name, make in wanted:
            if not (sets / way / f"{name}.npz").exists():
                make().write(sets / way)
                print(f"{way}: {name}", flush=True)
    (sets / "complete").touch()
