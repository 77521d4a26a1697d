// The page of `nasdm-wsi view`. A place is x, y in slide pixels whose corners are the integers;
// a view is the place in the middle of a pane and the scale, in micrometres (in pixels where a
// slide does not tell its pixel size), so that panes are in step whatever their resolutions.
"use strict";

const MAP = 120; // screen pixels of the longer side of the small map

const panes = [];
const types = []; // {name, color, shown}
const regions = []; // {name, color}
const state = { outlines: true, regions: true, inStep: true, leader: null };
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

  // The pyramid of what the server sends as pictures.
  tileSource(what) {
    const [minLevel, maxLevel] = this.levels;
    return {
      width: this.width,
      height: this.height,
      tileSize: this.tile,
      tileOverlap: this.overlap,
      minLevel,
      maxLevel,
      getTileUrl: (level, x, y) => this.url(what, level, x, y),
    };
  }

  // To be called when the page is laid out: OpenSeadragon measures its place. All panes can show
  // the widest slide.
  open(widest) {
    const longest = Math.max(this.width, this.height);
    this.viewer = OpenSeadragon({
      element: this.place,
      tileSources: this.tileSource("tile"),
      drawer: "canvas",
      smoothTileEdgesMinZoom: Infinity,
      imageLoaderLimit: 6,
      maxTilesPerFrame: 8,
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
    this.viewer.addOnceHandler("open", () => this.marks.forEach((box) => this.mark(box)));
    return new Promise((resolve) => this.viewer.addOnceHandler("open", resolve));
  }

  // Regions are a second image over the slide, whose tiles are transparent.
  addRegions() {
    this.viewer.addTiledImage({
      tileSource: {
        ...this.tileSource("regions"),
        hasTransparency: () => true,
      },
      opacity: state.regions ? 1 : 0,
      placeholderFillStyle: null,
      success: ({ item }) => (this.regions = item),
    });
  }

  // A frame round what an edit has painted anew.
  mark([y0, x0, y1, x1]) {
    const box = new OpenSeadragon.Rect(x0, y0, x1 - x0, y1 - y0);
    this.viewer.addOverlay({
      element: element("div", { className: "mark" }),
      location: this.viewer.world.getItemAt(0).imageToViewportRectangle(box),
    });
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

// Drawing anew what does not move

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
  if (!state.regions) parts.push("regions=off");
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
  state.regions = asked.get("regions") !== "off";
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
  document.body.classList.toggle("regions-off", !state.regions);
  $("outlines").ariaChecked = state.outlines;
  $("regions").ariaChecked = state.regions;
  $("step").ariaChecked = state.inStep;
  for (const type of types) type.box.checked = type.shown;
  for (const pane of panes) pane.regions?.setOpacity(state.regions ? 1 : 0);
  redraw();
}

function switchOutlines() {
  state.outlines = !state.outlines;
  showSwitches();
  remember();
}

function switchRegions() {
  state.regions = !state.regions;
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
  if (!labelled.length) {
    $("told").append(element("p", { textContent: "No annotations beside the slide." }));
  }
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
  await addRegions(pane);
}

// Shows the regions of a pane, if it has any, and what their colours mean.
async function addRegions(pane) {
  const answer = await fetch(`${pane.number}/regions`);
  const counts = answer.ok ? await answer.json() : {};
  if (!Object.keys(counts).length) return;
  for (const region of regions) {
    if (!(region.name in counts) || region.row) continue;
    const sample = element("i");
    sample.style.setProperty("--colour", region.color);
    const label = element("label", {}, sample, region.name);
    region.row = element("tr", {}, element("td", {}, label));
  }
  $("region-legend").tBodies[0].replaceChildren(...regions.flatMap(({ row }) => row ?? []));
  $("regions-section").hidden = false;
  pane.addRegions();
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
  const actions = { o: switchOutlines, r: switchRegions, h: () => home(), p: switchPanel, c: copyLink, l: switchStep };
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
    regions: switchRegions,
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
  const answer = await fetch("about");
  if (!answer.ok) return $("panes").append(element("p", { textContent: await answer.text() }));
  const about = await answer.json();
  document.title = `${about.slides.map((slide) => slide.name).join(" · ")} – nasdm-wsi`;
  for (const type of about.types) {
    const rgb = [1, 3, 5].map((at) => parseInt(type.color.slice(at, at + 2), 16));
    types.push({ ...type, rgb, shown: true });
  }
  regions.push(...about.regions);
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
