// Nuclei over a slide: tiles of the same pyramid, as outlines from near, as counts from afar. They
// are drawn on a canvas of their own in the frame in which OpenSeadragon draws the slide.
"use strict";

const ASKED_AT_ONCE = 4; // tiles of an overlay
const KEPT = 90; // tiles of an overlay
const LINE = 1.6; // screen pixels
const RIMMED = 0.4; // screen pixels of a slide pixel from which outlines have a rim
const ENLARGED = 1.5; // screen pixels of a slide pixel from which lines are drawn each by itself
const NUCLEUS = 200; // slide pixels that an ordinary nucleus covers

class Overlay {
  constructor(pane) {
    this.pane = pane;
    this.tiles = new Map(); // "level/x/y" -> {level, x, y, side, paths by type or counts, picture}
    this.asked = new Set();
    this.level = null; // the last that was complete
    this.ready = false;
    this.canvas = element("canvas", { className: "overlay", ariaHidden: "true" });
    pane.viewer.canvas.append(this.canvas);
  }

  // Draws at the place where the slide is drawn in this very frame.
  draw() {
    const { pane } = this;
    const { viewport } = pane.viewer;
    const context = this.cleared();
    if (!state.outlines || !this.ready || !viewport) return;
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const { x: width, y: height } = viewport.getContainerSize();
    const scale = (viewport.getZoom(true) * width) / pane.width;
    const seen = [-corner.x, -corner.y, width - corner.x, height - corner.y].map((n) => n / scale);
    // Until a new level is there the old one stays, as the slide's tiles do.
    const level = this.levelFor(scale);
    if (this.ask(level, seen)) this.level = level;
    const zoom = scale * window.devicePixelRatio;
    for (const tile of this.tiles.values()) {
      const [x, y] = [tile.x * tile.side, tile.y * tile.side];
      const outside = x > seen[2] || y > seen[3] || x + tile.side < seen[0] || y + tile.side < seen[1];
      if (outside || tile.level !== (this.level ?? level)) continue;
      context.setTransform(zoom, 0, 0, zoom, (x - seen[0]) * zoom, (y - seen[1]) * zoom);
      context.imageSmoothingEnabled = Boolean(tile.paths); // it would part cells at borders
      // Few nuclei are enlarged with fine lines; of many, a picture is quicker to move.
      if (tile.paths && scale > ENLARGED) drawOutlines(context, tile.paths, scale);
      else context.drawImage(this.picture(tile), 0, 0, tile.side, tile.side);
    }
  }

  // The context of the canvas, empty and as large as the pane.
  cleared() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((n) =>
      Math.round(n * window.devicePixelRatio),
    );
    const context = canvas.getContext("2d");
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.resetTransform();
    context.clearRect(0, 0, width, height);
    return context;
  }

  levelFor(scale) {
    const [bottom, top] = this.pane.levels;
    return Math.min(top, Math.max(bottom, top + Math.round(Math.log2(scale))));
  }

  // Asks for the tiles of a level in a window of the slide; true if all are there.
  ask(level, [x0, y0, x1, y1]) {
    const { width, height, tile, levels } = this.pane;
    const side = tile * 2 ** (levels[1] - level);
    let complete = true;
    for (let y = Math.max(0, Math.floor(y0 / side)); y * side < Math.min(y1, height); y++) {
      for (let x = Math.max(0, Math.floor(x0 / side)); x * side < Math.min(x1, width); x++) {
        if (this.tiles.has(`${level}/${x}/${y}`)) continue;
        complete = false;
        this.fetch({ level, x, y, side });
      }
    }
    return complete;
  }

  // Few at once, so that what has left the screen meanwhile is never asked for.
  async fetch(tile) {
    const key = `${tile.level}/${tile.x}/${tile.y}`;
    if (this.asked.has(key) || this.asked.size >= ASKED_AT_ONCE) return;
    this.asked.add(key);
    const near = tile.level >= this.pane.outlined;
    const url = this.pane.url(near ? "outlines" : "counts", tile.level, tile.x, tile.y);
    const answer = await fetch(url).catch(() => {});
    const content = answer?.ok && (await answer.arrayBuffer());
    this.asked.delete(key);
    if (!content) return; // the server has ended
    if (near) tile.paths = readPaths(content);
    else tile.counts = new Uint16Array(content);
    this.picture(tile); // made now: all at once, when the level is complete, takes too long a frame
    this.tiles.set(key, tile);
    if (this.tiles.size > KEPT) this.tiles.delete(this.tiles.keys().next().value);
    redraw();
  }

  // A tile as it is seen from some distance, of the types that are shown.
  picture(tile) {
    const shown = types.map((type) => type.shown).join();
    if (tile.shown !== shown) tile.picture = tile.paths ? this.outlined(tile) : this.counted(tile);
    tile.shown = shown;
    return tile.picture;
  }

  outlined(tile) {
    const side = this.pane.tile * window.devicePixelRatio;
    const picture = element("canvas", { width: side, height: side });
    const context = picture.getContext("2d");
    context.scale(side / tile.side, side / tile.side);
    drawOutlines(context, tile.paths, this.pane.tile / tile.side);
    return picture;
  }

  // Each cell in the colour of its most frequent type, the denser the fuller.
  counted(tile) {
    const side = this.pane.tile / this.pane.cell;
    const cells = side ** 2;
    const image = new ImageData(side, side);
    const [all, most] = [new Uint32Array(cells), new Uint16Array(cells)];
    types.forEach((type, k) => {
      if (!type.shown) return;
      for (let cell = 0; cell < cells; cell++) {
        const count = tile.counts[k * cells + cell];
        all[cell] += count;
        if (count <= most[cell]) continue;
        most[cell] = count;
        image.data.set(type.rgb, 4 * cell);
      }
    });
    const share = NUCLEUS / (tile.side / side) ** 2;
    all.forEach((count, cell) => {
      if (count) image.data[4 * cell + 3] = 215 * (1 - Math.exp(-3 * count * share));
    });
    const picture = element("canvas", { width: side, height: side });
    picture.getContext("2d").putImageData(image, 0, 0);
    return picture;
  }
}

function readPaths(content) {
  const [count] = new Uint32Array(content, 0, 1);
  const lengths = new Uint32Array(content, 4, count);
  const kinds = new Uint32Array(content, 4 + 4 * count, count);
  const points = new Float32Array(content, 4 + 8 * count);
  const paths = types.map(() => new Path2D());
  let next = 0;
  for (let ring = 0; ring < count; ring++) {
    const path = paths[kinds[ring] - 1];
    path.moveTo(points[next], points[next + 1]);
    for (const end = next + 2 * lengths[ring] - 2; (next += 2) < end; ) {
      path.lineTo(points[next], points[next + 1]);
    }
    path.closePath();
    next += 2;
  }
  return paths;
}

function drawOutlines(context, paths, scale) {
  context.lineJoin = "round";
  paths.forEach((path, k) => {
    if (!types[k].shown) return;
    const stroke = (color, width) => {
      context.strokeStyle = color;
      context.lineWidth = width / scale;
      context.stroke(path);
    };
    // A pale rim keeps red and blue apart from stained chromatin, where there is room for it.
    if (scale > RIMMED) stroke("#ffffffb0", 2.2 * LINE);
    stroke(types[k].color, LINE);
  });
}
