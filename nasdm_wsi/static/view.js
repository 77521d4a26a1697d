// The page of `nasdm-wsi view`. A place is x, y in slide pixels whose corners are the integers;
// a view is the place in the middle of a pane and the scale, in micrometres (in pixels where a
// slide does not tell its pixel size), so that panes are in step whatever their resolutions.
"use strict";

const ASKED_AT_ONCE = 4; // tiles of an overlay
const KEPT = 90; // tiles of an overlay
const LINE = 1.6; // screen pixels
const MAP = 120; // screen pixels of the longer side of the small map
const RIMMED = 0.4; // screen pixels of a slide pixel from which outlines have a rim
const NUCLEUS = 200; // slide pixels that an ordinary nucleus covers

const panes = [];
const types = []; // {name, color, shown}
const state = { outlines: true, inStep: true, leader: null };
const $ = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// A slide in its pane

class Pane {
  constructor(about, number, unit) {
    Object.assign(this, about, { number, unit: unit ? about.mpp : 1, micrometres: unit });
    this.offset = [0, 0];
    this.bar = element("div", { className: "bar" });
    this.scaleText = element("div");
    const name = element("div", { className: "tag name", textContent: about.name });
    if (about.synthetic) name.append(element("b", { textContent: "Synthetic: not for diagnosis" }));
    this.place = element("div", { className: "viewer" });
    this.element = element(
      "section",
      { className: "pane", ariaLabel: about.name },
      this.place,
      name,
      element("div", { className: "tag scale" }, this.bar, this.scaleText),
    );
    $("panes").append(this.element);
  }

  url(what, level, x, y) {
    return `${this.number}/${what}/${level}/${x}/${y}?${this.changed.join("-")}`;
  }

  // To be called when the page is laid out: OpenSeadragon measures its place. All panes can show
  // the widest slide.
  open(widest) {
    const [minLevel, maxLevel] = this.levels;
    const longest = Math.max(this.width, this.height);
    this.viewer = OpenSeadragon({
      element: this.place,
      tileSources: {
        width: this.width,
        height: this.height,
        tileSize: this.tile,
        tileOverlap: this.overlap,
        minLevel,
        maxLevel,
        getTileUrl: (level, x, y) => this.url("tile", level, x, y),
      },
      drawer: "canvas",
      smoothTileEdgesMinZoom: Infinity,
      imageLoaderLimit: 6,
      placeholderFillStyle: "#efeaf0",
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "TOP_RIGHT",
      navigatorWidth: `${(MAP * this.width) / longest}px`,
      navigatorHeight: `${(MAP * this.height) / longest}px`,
      navigatorAutoFade: false,
      navigatorOpacity: 1,
      navigatorDisplayRegionColor: "#7a3fb0",
      animationTime: 0.4,
      springStiffness: 9,
      zoomPerScroll: 1.35,
      visibilityRatio: 0.2,
      minZoomImageRatio: (0.4 * this.width * this.unit) / widest,
      maxZoomPixelRatio: 16,
      preserveImageSizeOnResize: true,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { pinchRotate: false },
    });
    this.viewer.canvas.ariaLabel = `${this.name}: drag or arrow keys move, wheel or + and − zoom`;
    this.overlay = new Overlay(this);
    this.viewer.addHandler("canvas-key", (event) => {
      // Turning and mirroring would part the panes, and a slide is not looked at so.
      if ("rRfF0".includes(event.originalEvent.key)) event.preventDefaultAction = true;
    });
    for (const kind of ["pointerdown", "wheel", "keydown"]) {
      this.element.addEventListener(kind, () => (state.leader = this), { capture: true });
    }
    this.viewer.addHandler("viewport-change", () => this === state.leader && moved());
    this.viewer.addHandler("update-viewport", () => this.draw());
    return new Promise((resolve) => this.viewer.addOnceHandler("open", resolve));
  }

  get view() {
    const { viewport } = this.viewer;
    const middle = viewport.getCenter(true).times(this.width * this.unit);
    const across = viewport.getZoom(true) * viewport.getContainerSize().x;
    return { x: middle.x, y: middle.y, scale: (this.width * this.unit) / across };
  }

  show({ x, y, scale }, immediately = true) {
    const { viewport } = this.viewer;
    const whole = this.width * this.unit;
    viewport.zoomTo(whole / (scale * viewport.getContainerSize().x), null, immediately);
    viewport.panTo(new OpenSeadragon.Point(x / whole, y / whole), immediately);
  }

  draw() {
    this.overlay.draw();
    const { scale } = this.view;
    const length = roundLength(130 * scale);
    const [size, name] = this.micrometres
      ? length >= 1000 ? [length / 1000, "mm"] : [length, "µm"]
      : [length, "px"];
    this.bar.style.width = `${length / scale}px`;
    this.bar.textContent = `${Number(size.toPrecision(1))} ${name}`;
    this.scaleText.textContent = this.micrometres
      ? `${Number((10 / scale).toPrecision(2))}× · ${scale.toPrecision(2)} µm/px`
      : `${Number((100 / scale).toPrecision(2))} %`;
  }
}

// The greatest of 1, 2, 5, 10, ... that is not above a length.
function roundLength(length) {
  const power = 10 ** Math.floor(Math.log10(length));
  return power * [5, 2, 1].find((factor) => factor * power <= length);
}

// Nuclei over a slide: tiles of the same pyramid, as outlines from near, as counts from afar

class Overlay {
  constructor(pane) {
    this.pane = pane;
    this.tiles = new Map(); // "level/x/y" -> paths by type, or counts and their picture
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
      // Of the few nuclei near by, lines stay fine when they are enlarged; of many, a picture is
      // quicker to move.
      if (tile.level === pane.levels[1]) drawOutlines(context, tile.paths, scale);
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
    context.imageSmoothingEnabled = this.level >= this.pane.outlined; // it parts cells at borders
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
    const found = near ? { paths: readPaths(content) } : { counts: new Uint16Array(content) };
    this.tiles.set(key, { ...tile, ...found });
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

let redrawing = 0;
function redraw() {
  redrawing ||= requestAnimationFrame(() => {
    redrawing = 0;
    panes.forEach((pane) => pane.overlay.draw());
  });
}

// Panes in step

function moved() {
  const { leader } = state;
  if (state.inStep) {
    const { x, y, scale } = leader.view;
    for (const pane of panes) {
      if (pane === leader) continue;
      const [dx, dy] = [0, 1].map((k) => pane.offset[k] - leader.offset[k]);
      pane.show({ x: x + dx, y: y + dy, scale });
    }
  }
  remember();
}

// Where the panes stand to each other now is where they stay.
function keepOffsets() {
  const first = panes[0].view;
  for (const pane of panes) pane.offset = [pane.view.x - first.x, pane.view.y - first.y];
}

function home(immediately = false) {
  const fit = (pane, width, height) => {
    const room = pane.viewer.viewport.getContainerSize();
    return { x: width / 2, y: height / 2, scale: 1.06 * Math.max(width / room.x, height / room.y) };
  };
  const sizes = panes.map((pane) => [pane.width * pane.unit, pane.height * pane.unit]);
  if (!state.inStep) {
    panes.forEach((pane, k) => pane.show(fit(pane, ...sizes[k]), immediately));
    return;
  }
  state.leader = panes[0];
  panes.forEach((pane) => (pane.offset = [0, 0]));
  const most = [0, 1].map((k) => Math.max(...sizes.map((size) => size[k])));
  panes[0].show(fit(panes[0], ...most), immediately);
}

function zoom(factor) {
  for (const pane of state.inStep ? [state.leader] : panes) {
    pane.viewer.viewport.zoomBy(factor).applyConstraints();
  }
}

// The link to a view

function fragment() {
  const views = panes.map(({ view: { x, y, scale } }) =>
    [x.toFixed(2), y.toFixed(2), scale.toPrecision(6)].join(),
  );
  const parts = [`at=${new Set(views).size === 1 ? views[0] : views.join(";")}`];
  if (!state.inStep) parts.push("apart");
  if (!state.outlines) parts.push("outlines=off");
  if (!types.every((type) => type.shown)) {
    parts.push(`types=${types.filter((type) => type.shown).map((type) => type.name)}`);
  }
  return `#${parts.join("&")}`;
}

let remembering = 0;
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, "", fragment()), 150);
}

function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  state.outlines = asked.get("outlines") !== "off";
  state.inStep = !asked.has("apart");
  const names = asked.get("types")?.split(",");
  for (const type of types) type.shown = !names || names.includes(type.name);
  const views = (asked.get("at") ?? "").split(";").map((text) => text.split(",").map(Number));
  if (views.every((view) => view.length === 3 && view.every(Number.isFinite) && view[2] > 0)) {
    panes.forEach((pane, k) => {
      const [x, y, scale] = views[k] ?? views[0];
      pane.show({ x, y, scale });
    });
    keepOffsets();
  } else {
    home(true);
  }
  showSwitches();
}

// Side panel

function showSwitches() {
  document.body.classList.toggle("outlines-off", !state.outlines);
  $("outlines").ariaChecked = state.outlines;
  $("step").ariaChecked = state.inStep;
  for (const type of types) type.box.checked = type.shown;
  redraw();
}

function switchOutlines() {
  state.outlines = !state.outlines;
  showSwitches();
  remember();
}

function switchType(type) {
  type.shown = !type.shown;
  showSwitches();
  remember();
}

function switchStep() {
  state.inStep = !state.inStep;
  if (state.inStep) {
    const { scale } = state.leader.view;
    panes.forEach((pane) => pane.show({ ...pane.view, scale }));
    keepOffsets();
  }
  showSwitches();
  remember();
}

function switchPanel() {
  const open = document.body.classList.toggle("with-panel");
  $("panel-switch").ariaExpanded = open;
}

async function copyLink() {
  history.replaceState(null, "", fragment());
  try {
    await navigator.clipboard.writeText(location.href);
    $("link").textContent = "Copied";
  } catch {
    $("link").textContent = "It is in the address bar";
  }
  setTimeout(() => ($("link").textContent = "Copy link"), 1500);
}

function addLegend() {
  const labelled = panes.filter((pane) => pane.labels);
  if (!labelled.length) $("told").append(element("p", { textContent: "No annotations beside the slide." }));
  if (labelled.length > 1) {
    const names = labelled.map((pane) => element("th", { textContent: pane.name, title: pane.name }));
    $("legend").tHead.append(element("tr", {}, element("th"), ...names));
  }
  const cells = () => labelled.map((pane) => element("td", { className: `n${pane.number}` }));
  for (const type of types) {
    type.box = element("input", { type: "checkbox", checked: true, onchange: () => switchType(type) });
    type.box.style.setProperty("--colour", type.color);
    const label = element("label", {}, type.box, type.name);
    type.row = element("tr", {}, element("td", {}, label), ...cells());
  }
  const total = element("tr", { className: "total" }, element("td", { textContent: "all" }), ...cells());
  $("legend").tBodies[0].append(...types.map((type) => type.row), total);
  labelled.forEach((pane) => addCounts(pane, total));
}

async function addCounts(pane, total) {
  const told = element("p", { textContent: `Reading ${pane.labels} …` });
  $("told").append(told);
  const answer = await fetch(`${pane.number}/nuclei`);
  if (!answer.ok) {
    told.textContent = await answer.text();
    told.className = "wrong";
    return;
  }
  const counts = await answer.json();
  const write = (row, count) =>
    (row.querySelector(`.n${pane.number}`).textContent = count.toLocaleString("en"));
  for (const type of types) write(type.row, counts[type.name]);
  write(total, Object.values(counts).reduce((a, b) => a + b));
  told.remove();
  pane.overlay.ready = true;
  redraw();
}

function addFacts(pane) {
  const facts = pane.facts.flatMap(([name, value]) => [
    element("dt", { textContent: name }),
    element("dd", { textContent: value }),
  ]);
  const warning = element("p", { className: "synthetic", textContent: "Synthetic: not for diagnosis" });
  $("slides").append(
    element(
      "section",
      {},
      element(
        "details",
        { open: true },
        element("summary", { textContent: pane.name }),
        ...(pane.synthetic ? [warning] : []),
        element("dl", { className: "facts" }, ...facts),
      ),
    ),
  );
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = { o: switchOutlines, h: () => home(), p: switchPanel, c: copyLink, l: switchStep };
  if (!event.target.closest?.(".viewer")) {
    Object.assign(actions, { "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5) });
  }
  const type = types[event.key - 1];
  if (type) switchType(type);
  else actions[event.key]?.();
}

function listen() {
  const clicks = {
    outlines: switchOutlines,
    step: switchStep,
    link: copyLink,
    home: () => home(),
    closer: () => zoom(1.5),
    farther: () => zoom(1 / 1.5),
    "panel-switch": switchPanel,
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", follow);
}

async function start() {
  const about = await (await fetch("about")).json();
  document.title = `${about.slides.map((slide) => slide.name).join(" · ")} – nasdm-wsi`;
  for (const type of about.types) {
    const rgb = [1, 3, 5].map((at) => parseInt(type.color.slice(at, at + 2), 16));
    types.push({ ...type, rgb, shown: true });
  }
  const unit = about.slides.every((slide) => slide.mpp);
  about.slides.forEach((slide, k) => panes.push(new Pane(slide, k, unit)));
  const columns = panes.length < 4 ? panes.length : Math.ceil(Math.sqrt(panes.length));
  $("panes").style.setProperty("--columns", columns);
  if (window.innerWidth > 760) switchPanel();
  state.leader = panes[0];
  $("step").hidden = panes.length < 2;
  addLegend();
  panes.forEach(addFacts);
  const widest = Math.max(...panes.map((pane) => Math.max(pane.width, pane.height) * pane.unit));
  await Promise.all(panes.map((pane) => pane.open(widest)));
  follow();
  listen();
}

start();
