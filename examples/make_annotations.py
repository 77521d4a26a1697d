"""Draw nuclei annotations of an invented piece of colon and write them as QuPath GeoJSON.

From top to bottom, as in a section of the bowel wall:

    glass               the open gut, with nothing in it
    surface epithelium  one row of epithelial nuclei, dipping where crypts open
    mucosa              crypts cut across, obliquely or at a fork; around them the lamina propria
                        with immune cells, fibroblasts and a lymphoid aggregate; in one crypt
                        an abscess, that is neutrophils in its lumen
    muscularis mucosae  long thin nuclei, all parallel
    submucosa           sparse fibroblasts, a few wandering cells, small vessels

The tissue is laid out in micrometres with (x, y) to the right and down. Every structure only
proposes where its nuclei would lie; `outlines` then turns the proposals into polygons in pixels
and keeps those that do not overlap an earlier one. The same seed gives the same file.
"""

import argparse
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import geojson
import numpy as np
import shapely
from numpy.random import Generator
from shapely import Point, Polygon, STRtree
from shapely.affinity import rotate, scale, translate

MPP = 0.5  # micrometres per pixel: 20x
VERTICES = 16  # of one nuclear outline
DECIMALS = 1  # of a pixel coordinate: 0.05 micrometres, far below what a microscope resolves
SMALLEST_SIZE = 1024  # pixels; below it the layers leave no room for crypts
PATIENCE = 80  # crypts that may fail to fit before the mucosa counts as full

# All lengths from here on are micrometres.
MARGIN = 70.0  # drawn beyond the canvas, so that its edges cut through structures like a real crop
LUMEN_DEPTH = 36.0
EPITHELIUM_HEIGHT = 22.0
MUSCLE_DEPTH = 50.0
SUBMUCOSA_DEPTH = 92.0
CRYPT_RADIUS = (23.0, 50.0)
CRYPT_GAP = (10.0, 24.0)
AGGREGATE_RADIUS = 48.0
BASAL_DEPTH = 5.5  # from the border of an epithelium to the centres of its nuclei
LAMINA_SPACING = 12.4  # between neighbouring nuclei, at least
MUSCLE_SPACING = 14.5
SUBMUCOSA_SPACING = 21.0

Field = Callable[[np.ndarray], np.ndarray]  # points (n, 2) to values (n,)
Nucleus = tuple[str, Polygon]  # its kind, and its outline in pixels


class Kind(NamedTuple):
    """How nuclei of one type look; sizes near the medians measured on colon at 20x."""

    color: tuple[int, int, int]
    length: float
    width: float
    wobble: float  # how far an outline strays from an ellipse, as a share of its radius


KINDS = {
    "Neutrophil": Kind((255, 165, 0), 5.2, 3.9, 0.13),  # lobed
    "Epithelial": Kind((0, 200, 0), 7.2, 4.5, 0.05),
    "Lymphocyte": Kind((255, 0, 0), 4.6, 3.7, 0.06),
    "Plasma": Kind((0, 220, 220), 5.0, 3.8, 0.06),
    "Eosinophil": Kind((0, 0, 255), 5.9, 4.3, 0.10),  # two lobes
    "Connective": Kind((255, 255, 0), 7.4, 3.2, 0.07),
}
LAMINA = dict(Neutrophil=0.012, Lymphocyte=0.42, Plasma=0.18, Eosinophil=0.06, Connective=0.28)


class Proposal(NamedTuple):
    """Where a nucleus would like to lie: centre, direction of its long axis, elongation."""

    kind: str
    x: float
    y: float
    angle: float
    stretch: float = 1.0  # above 1: longer and thinner than its kind, at about the same area


class Tissue(NamedTuple):
    canvas: Polygon
    lumen: Polygon
    surface: Polygon  # the lumen and the epithelium that faces it
    mucosa: Polygon  # without that epithelium
    muscle: Polygon
    submucosa: Polygon
    aggregate: Polygon
    crypts: list[Polygon]


def draw_tissue(rng: Generator, size: float) -> Tissue:
    x = np.arange(-MARGIN, size + MARGIN + 1, 4.0)
    pits = np.cumsum(rng.uniform(90, 230, 2 + int(np.ptp(x) / 90)))[:, None] - MARGIN
    depth, width = rng.uniform(18, 55, pits.shape), rng.uniform(11, 17, pits.shape)
    dips = (depth * np.exp(-(((x - pits) / width) ** 2))).sum(axis=0)
    muscle_top = size - SUBMUCOSA_DEPTH - MUSCLE_DEPTH + wave(rng, x, 14)
    muscle_base = muscle_top + MUSCLE_DEPTH + wave(rng, x, 5)
    lumen = layer(x, 0 * x - MARGIN, LUMEN_DEPTH + wave(rng, x, 9) + dips)
    # Widened and drawn back, so that the row of nuclei turns the shoulders of a pit smoothly.
    surface = lumen.buffer(EPITHELIUM_HEIGHT + 20).buffer(-20)
    mucosa = layer(x, 0 * x - MARGIN, muscle_top).difference(surface)
    centre = Point(rng.uniform(0.25, 0.75) * size, muscle_top.min() - 0.95 * AGGREGATE_RADIUS)
    aggregate = scale(centre.buffer(AGGREGATE_RADIUS), 1.15, 0.85)
    return Tissue(
        canvas=shapely.box(0, 0, size, size),
        lumen=lumen,
        surface=surface,
        mucosa=mucosa,
        muscle=layer(x, muscle_top, muscle_base),
        submucosa=layer(x, muscle_base, 0 * x + size + MARGIN),
        aggregate=aggregate,
        crypts=pack_crypts(rng, mucosa.buffer(-CRYPT_GAP[0]), aggregate),
    )


def wave(rng: Generator, t: np.ndarray, amplitude: float) -> np.ndarray:
    """A smooth random curve over t: four sines, the longer the higher."""
    lengths = np.array([410.0, 230.0, 137.0, 83.0])[:, None]
    phases = rng.uniform(0, 2 * np.pi, (4, 1))
    return amplitude * (lengths / 800 * np.sin(2 * np.pi * t / lengths + phases)).sum(axis=0)


def layer(x: np.ndarray, top: np.ndarray, base: np.ndarray) -> Polygon:
    return Polygon(np.concatenate([np.c_[x, top], np.c_[x, base][::-1]]))


def pack_crypts(rng: Generator, room: Polygon, aggregate: Polygon) -> list[Polygon]:
    """Drop crypts into the room one by one, each as close to the others as its gap allows."""
    taken, failures = [aggregate], 0
    while failures < PATIENCE:
        # Ever smaller ones, so that the last fill the gaps between the first.
        crypt, gap = draw_crypt(rng, 1 - failures / PATIENCE), rng.uniform(*CRYPT_GAP)
        shifts = rng.uniform(*np.reshape(room.bounds, (2, 2)), (400, 2))
        places = [at for shift in shifts if room.contains(at := translate(crypt, *shift))]
        nearest = STRtree(taken).query_nearest(places, all_matches=False, return_distance=True)
        clearance = np.where(nearest[1] >= gap, nearest[1], np.inf)
        if np.isfinite(clearance).any():
            taken.append(places[clearance.argmin()])
        else:
            failures += 1
    return taken[1:]


def draw_crypt(rng: Generator, fullness: float) -> Polygon:
    """The border of one crypt about the origin: a tube cut across, obliquely or at a fork."""
    radius = CRYPT_RADIUS[0] + fullness * rng.beta(2, 3.5) * np.ptp(CRYPT_RADIUS)
    cut = rng.choice(["across", "oblique", "fork"], p=[0.6, 0.3, 0.1])
    length = radius * (rng.uniform(0, 0.35) if cut == "across" else rng.uniform(0.6, 2.0))
    t = np.linspace(-1, 1, 7)
    spine = np.column_stack([rng.normal(0, 0.25) * length * t**2, length * t])
    if cut == "fork":
        spine = np.concatenate([spine, np.outer(t[3:], (radius * 1.6, -length - radius * 0.4))])
    spine += rng.normal(0, 0.05 * radius, spine.shape)
    discs = shapely.buffer(shapely.points(spine), radius * rng.uniform(0.85, 1.05, len(spine)))
    smooth = shapely.union_all(discs).buffer(radius / 2).buffer(-radius).buffer(radius / 2)
    # Crypts stand upright on the muscle, so a cut along one is nearer vertical than horizontal.
    return rotate(smooth, rng.normal(0, 35), origin=(0, 0)).simplify(0.3)


def populate(rng: Generator, tissue: Tissue) -> Iterator[Proposal]:
    """Proposals for the whole tissue; where two collide the earlier one stays."""
    yield from epithelium(rng, tissue.surface, crowded=False)
    for crypt in tissue.crypts:
        yield from epithelium(rng, crypt, crowded=rng.random() < 0.15)
        yield from spindles_around(rng, crypt, gap=45)
    yield from gatherings(rng, tissue)
    yield from lamina_propria(rng, tissue)
    yield from deep_layers(rng, tissue)


def epithelium(rng: Generator, border: Polygon, *, crowded: bool) -> Iterator[Proposal]:
    """A row of nuclei inside a border, long axes across it; staggered in two where crowded."""
    count = int(border.length / 2)
    goblets = rng.random(count) < 0.13  # their mucus pushes the neighbours apart
    steps = np.cumsum(rng.uniform(4.6, 6.2, count) * (0.62 if crowded else 1) + 3.5 * goblets)
    points, inward = along(border, steps[steps < border.length - 4])
    stretch = rng.normal(1.12 if crowded else 1.0, 0.04)
    for i, (point, into) in enumerate(zip(points, inward, strict=True)):
        depth = BASAL_DEPTH + rng.normal(0, 0.7) + (7.5 * (i % 2) if crowded else 0)
        angle = np.arctan2(into[1], into[0]) + rng.normal(0, 0.16)
        kind = "Lymphocyte" if rng.random() < 0.02 else "Epithelial"
        yield Proposal(kind, *(point + depth * into), angle, stretch * rng.normal(1, 0.08))


def spindles_around(rng: Generator, border: Polygon, *, gap: float) -> Iterator[Proposal]:
    """The fibroblasts that wrap a crypt, the endothelium that lines a vessel."""
    steps = np.cumsum(9 + rng.exponential(gap, int(border.length / 9)))
    points, inward = along(border, steps[steps < border.length])
    for point, into in zip(points, inward, strict=True):
        at = point - rng.uniform(2.2, 4.0) * into
        yield Proposal("Connective", *at, np.arctan2(into[0], -into[1]), rng.normal(1.2, 0.1))


def along(shape: Polygon, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) at these distances along a border, and the unit vectors to its inside."""
    ring = shapely.geometry.polygon.orient(shape).exterior
    behind, here, ahead = (
        shapely.get_coordinates(shapely.line_interpolate_point(ring, (steps + d) % ring.length))
        for d in (-1.0, 0.0, 1.0)
    )
    inward = (ahead - behind)[:, ::-1] * (-1, 1)
    return here, inward / np.linalg.norm(inward, axis=1, keepdims=True)


def gatherings(rng: Generator, tissue: Tissue) -> Iterator[Proposal]:
    """Lymphocytes shoulder to shoulder in the aggregate, neutrophils in the widest crypt."""
    lumina = [
        crypt.buffer(-EPITHELIUM_HEIGHT) for crypt in tissue.crypts if tissue.canvas.contains(crypt)
    ]
    abscess = max(lumina, key=lambda shape: shape.area)
    for at in scatter(rng, tissue.aggregate, lambda at: rng.uniform(4.6, 7, len(at))):
        yield Proposal("Lymphocyte", *at, rng.uniform(0, np.pi))
    for at in scatter(rng, abscess, lambda at: rng.uniform(9, 32, len(at))):
        yield Proposal("Neutrophil", *at, rng.uniform(0, np.pi))


def lamina_propria(rng: Generator, tissue: Tissue) -> Iterator[Proposal]:
    """Immune cells and fibroblasts between the crypts, each type in drifts of its own."""
    full = shapely.union_all([*tissue.crypts, tissue.aggregate.buffer(-12)]).buffer(2.5)
    stroma, crowding = tissue.mucosa.difference(full), drift(rng)
    at = scatter(rng, stroma, lambda at: LAMINA_SPACING * np.exp(0.25 * crowding(at)))
    odds = [np.log(share) + 0.6 * drift(rng)(at) for share in LAMINA.values()]
    pick = np.argmax(odds + rng.gumbel(size=np.shape(odds)), axis=0)  # a draw by these odds
    fibres = fibre_angles(shapely.union_all([tissue.surface, tissue.muscle, *tissue.crypts]), at)
    for place, k, fibre in zip(at, pick, fibres, strict=True):
        yield resident(rng, list(LAMINA)[k], place, fibre)


def deep_layers(rng: Generator, tissue: Tissue) -> Iterator[Proposal]:
    """Muscle, then vessels as loops of flat endothelium, then the loose submucosa around them."""
    at = scatter(rng, tissue.muscle, lambda at: np.full(len(at), MUSCLE_SPACING))
    for (x, y), fibre in zip(at, fibre_angles(tissue.submucosa, at), strict=True):
        yield Proposal("Connective", x, y, fibre + rng.normal(0, 0.06), rng.normal(1.45, 0.12))
    room = tissue.submucosa.intersection(tissue.canvas).buffer(-22)
    sites = shapely.points(scatter(rng, room, lambda at: rng.uniform(120, 500, len(at))))
    vessels = [scale(site.buffer(rng.uniform(12, 20)), 1, rng.uniform(0.5, 1)) for site in sites]
    for vessel in vessels:
        yield from spindles_around(rng, vessel, gap=2)
    swirl = drift(rng)
    loose = tissue.submucosa.difference(shapely.union_all(vessels).buffer(4))
    at = scatter(rng, loose, lambda at: SUBMUCOSA_SPACING * np.exp(0.25 * swirl(at)))
    for place, fibre in zip(at, 0.35 * swirl(at), strict=True):
        yield resident(rng, "Lymphocyte" if rng.random() < 0.12 else "Connective", place, fibre)


def resident(rng: Generator, kind: str, at: np.ndarray, fibre: float) -> Proposal:
    """Spindles follow the fibres, round cells lie as they like."""
    if kind == "Connective":
        return Proposal(kind, *at, fibre + rng.normal(0, 0.3), rng.normal(1.05, 0.12))
    return Proposal(kind, *at, rng.uniform(0, np.pi), rng.normal(1, 0.06))


def fibre_angles(shape: shapely.Geometry, at: np.ndarray) -> np.ndarray:
    """Fibres run along the nearest border: at a right angle to the shortest way there."""
    ways = shapely.shortest_line(shapely.points(at), shape.boundary)
    dx, dy = np.diff(shapely.get_coordinates(ways).reshape(-1, 2, 2), axis=1)[:, 0].T
    return np.arctan2(dx, -dy)


def drift(rng: Generator) -> Field:
    """A smooth random field about 0 with variance 1: eight plane waves."""
    directions, phases = rng.uniform(0, 2 * np.pi, (2, 8))
    waves = np.stack([np.cos(directions), np.sin(directions)]) / rng.uniform(12, 45, 8)
    return lambda at: np.sin(at @ waves + phases).sum(axis=1) / 2


def scatter(rng: Generator, region: Polygon, spacing: Field) -> np.ndarray:
    """Points (n, 2) at random in a region, none closer to an earlier one than its spacing."""
    low, high = np.reshape(region.bounds, (2, 2))
    darts = rng.uniform(low, high, (int(np.prod(high - low) / 8) + 50, 2))
    darts = darts[shapely.contains_xy(region, darts)]
    kept, count = np.empty_like(darts), 0
    for dart, distance in zip(darts, spacing(darts), strict=True):
        if (((kept[:count] - dart) ** 2).sum(axis=1) > distance**2).all():
            kept[count] = dart
            count += 1
    return kept[:count]


def outline(rng: Generator, proposal: Proposal) -> Polygon:
    """An ellipse whose radius wobbles in two to four swells, in pixels."""
    kind, stretch = KINDS[proposal.kind], proposal.stretch
    turn, swells = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False), np.arange(2, 5)
    heights = rng.normal(0, kind.wobble, 3) / np.sqrt(swells)
    swell = np.cos(swells * turn[:, None] + rng.uniform(0, 2 * np.pi, 3)) @ heights
    ellipse = kind.length * stretch * np.cos(turn) + 1j * kind.width / stretch * np.sin(turn)
    ring = ellipse / 2 * np.exp(rng.normal(0, 0.11) + swell + 1j * proposal.angle)
    return Polygon(np.c_[proposal.x + ring.real, proposal.y + ring.imag] / MPP)


def outlines(rng: Generator, proposals: Iterable[Proposal], frame: Polygon) -> Iterator[Nucleus]:
    """Polygons in pixels, clipped to the frame; one that would overlap is shrunk or left out."""
    candidates = [(p.kind, outline(rng, p)) for p in proposals]
    tree = STRtree([shape for _, shape in candidates])
    kept: dict[int, Polygon] = {}
    for i, (kind, shape) in enumerate(candidates):
        rivals = [kept[j] for j in tree.query(shape) if j in kept]
        for factor in (1.0, 0.9, 0.8):
            smaller = scale(shape, factor, factor)
            # Rounded before overlaps are judged: the file is free of them to the last digit.
            smaller = shapely.intersection(smaller, frame, grid_size=10.0**-DECIMALS)
            if smaller.area < shape.area / 2:
                break  # most of it lies outside the canvas
            if all(smaller.touches(rival) or smaller.disjoint(rival) for rival in rivals):
                kept[i] = smaller
                yield kind, smaller
                break


def feature(rng: Generator, shape: Polygon, **properties: object) -> str:
    written = geojson.Feature(
        id=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        geometry=geojson.Polygon([shapely.get_coordinates(shape).round(DECIMALS).tolist()]),
        properties=properties,
    )
    return geojson.dumps(written, separators=(",", ":"))


def annotate(size: int, seed: int) -> str:
    """The whole file as text, one feature a line so that differences can be read."""
    rng = np.random.default_rng(seed)
    tissue = draw_tissue(rng, size * MPP)
    ground = scale(tissue.canvas.difference(tissue.lumen), 1 / MPP, 1 / MPP, origin=(0, 0))
    named = {"name": "Tissue", "color": (150, 120, 160)}
    lines = [feature(rng, ground, objectType="annotation", classification=named)]
    for kind, shape in outlines(rng, populate(rng, tissue), shapely.box(0, 0, size, size)):
        named = {"name": kind, "color": KINDS[kind].color}
        lines.append(feature(rng, shape, objectType="detection", classification=named))
    return '{"type":"FeatureCollection","features":[\n' + ",\n".join(lines) + "\n]}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw nuclei annotations of an invented colon.")
    parser.add_argument("-o", "--output", type=Path, default=Path("annotations.geojson"))
    parser.add_argument("--size", type=int, default=1536, help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another tissue")
    options = parser.parse_args()
    if options.size < SMALLEST_SIZE:
        parser.error(f"--size must be at least {SMALLEST_SIZE}")
    options.output.write_text(annotate(options.size, options.seed), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
