"use strict";
const page = JSON.parse(document.getElementById("description").textContent);
const { shape, spacing, layers, windows } = page;
const $ = (id) => document.getElementById(id);
// Axis that the slices of a plane are stacked along, and those that run across and up its picture.
const PLANES = [{ name: "axial", axis: 2, u: 0, v: 1 }, { name: "coronal", axis: 1, u: 0, v: 2 },
  { name: "sagittal", axis: 0, u: 1, v: 2 }];
const GROUPS = { spread: "spread", error: "error", phase: "phase" };
const groupOf = (layer) => GROUPS[layer.kind] || "intensity";
const CT = { "soft tissue": [40, 400], lung: [-600, 1500], bone: [400, 1800], brain: [40, 80], liver: [60, 160] };
const first = { ...windows };
const at = shape.map((n) => Math.floor(n / 2));
const views = [];
let enlarged = null;

// Volumes: integers q of the value low + step * q, x fastest; see the module encoding.
async function unpack(layer, index) {
  const element = $(`volume${index}`);
  const text = atob(element.textContent);
  element.remove();
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const both = new Uint8Array(await new Response(stream).arrayBuffer());
  const n = both.length / 2, q = new Uint16Array(n);
  const stride = [1, shape[0], shape[0] * shape[1]][layer.axis];
  const line = stride * shape[layer.axis];
  for (let start = 0; start < n; start += line) {
    for (let i = start; i < start + line; i++) {
      const folded = both[i] | (both[n + i] << 8);
      q[i] = ((folded >> 1) ^ -(folded & 1)) + (i - start < stride ? 0 : q[i - stride]);
    }
  }
  layer.q = q;
}
const ready = (layer) => (layer.kind === "error" ? ready(layers[layer.of]) && ready(layers[page.truth]) : !!layer.q);
function valueOf(layer, i) {
  if (layer.kind === "error") return valueOf(layers[layer.of], i) - valueOf(layers[page.truth], i);
  return layer.low + layer.step * layer.q[i];
}
function halfStep(layer) {
  if (layer.kind === "error") return halfStep(layers[layer.of]) + halfStep(layers[page.truth]);
  return layer.exact ? 0 : layer.step / 2;
}

// Colours: grey for intensities, dark to light for the spread, blue - black - orange for errors.
const STOPS = { intensity: [[0, 0, 0], [255, 255, 255]], phase: [[0, 0, 0], [255, 255, 255]],
  spread: [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]],
  error: [[150, 220, 255], [40, 110, 220], [0, 0, 0], [220, 90, 20], [255, 225, 140]] };
function colours(group) {
  const stops = STOPS[group], lut = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const t = (i / 255) * (stops.length - 1), k = Math.min(Math.floor(t), stops.length - 2), f = t - k;
    const [r, g, b] = stops[k].map((c, n) => Math.round(c + f * (stops[k + 1][n] - c)));
    lut[i] = 0xff000000 | (b << 16) | (g << 8) | r;
  }
  return lut;
}
const LUTS = Object.fromEntries(Object.keys(STOPS).map((group) => [group, colours(group)]));

// As radiologists look at patients: their right is on the left of the screen, and they face left.
const mirrored = () => page.ends !== null && !$("side").checked;

// The slice through the crosshair, a pixel a voxel.
function sliceOf(layer, plane) {
  const nu = shape[plane.u], nv = shape[plane.v], strides = [1, shape[0], shape[0] * shape[1]];
  const su = strides[plane.u], sv = strides[plane.v], base = at[plane.axis] * strides[plane.axis];
  const group = groupOf(layer), [low, high] = windows[group], lut = LUTS[group], scale = 255 / (high - low || 1);
  const picture = new ImageData(nu, nv), out = new Uint32Array(picture.data.buffer), mirror = mirrored();
  for (let v = 0; v < nv; v++) {
    for (let u = 0; u < nu; u++) {
      const value = valueOf(layer, base + su * u + sv * v);
      const t = Math.round((value - low) * scale);
      out[(nv - 1 - v) * nu + (mirror ? nu - 1 - u : u)] = lut[t < 0 ? 0 : t > 255 ? 255 : t];
    }
  }
  const canvas = new OffscreenCanvas(nu, nv);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

// Where the voxels of a plane lie in its canvas: origin and size of a voxel, in pixels of the canvas.
function frame(view) {
  const { plane, canvas } = view, mm = [plane.u, plane.v].map((a) => shape[a] * spacing[a]);
  const scale = Math.min(canvas.width / mm[0], canvas.height / mm[1]);
  const [w, h] = [mm[0] * scale, mm[1] * scale];
  return { x: (canvas.width - w) / 2, y: (canvas.height - h) / 2, w, h };
}
function shownLayers(row) {
  const a = layers[$("first").value], b = layers[$("second").value];
  return $("mode").value === "blend" ? [a, b] : [row === 0 ? a : b];
}
function draw(view) {
  const { canvas, plane } = view, context = canvas.getContext("2d"), f = frame(view);
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = $("smooth").checked;
  context.imageSmoothingQuality = "high";
  shownLayers(view.row).forEach((layer, n) => {
    if (!ready(layer)) return;
    context.globalAlpha = n ? $("opacity").value / 100 : 1;
    context.drawImage(sliceOf(layer, plane), f.x, f.y, f.w, f.h);
  });
  context.globalAlpha = 1;
  const dpr = window.devicePixelRatio || 1;
  if ($("cross").checked) cross(context, f, plane, canvas, dpr);
  letters(context, canvas, plane, dpr);
}
function cross(context, f, plane, canvas, dpr) {
  const mirror = mirrored(), nu = shape[plane.u], nv = shape[plane.v];
  const x = f.x + (((mirror ? nu - 1 - at[plane.u] : at[plane.u]) + 0.5) / nu) * f.w;
  const y = f.y + ((nv - 1 - at[plane.v] + 0.5) / nv) * f.h, gap = 7 * dpr;
  context.strokeStyle = "#ffd24a";
  context.lineWidth = dpr;
  context.beginPath();
  const free = page.ends === null ? 0 : 24 * dpr; // for the letters
  const [x0, x1] = [Math.max(f.x, free), Math.min(f.x + f.w, canvas.width - free)];
  const [y0, y1] = [Math.max(f.y, free), Math.min(f.y + f.h, canvas.height - free)];
  for (const [a, b] of [[x0, x - gap], [x + gap, x1]]) if (b > a) { context.moveTo(a, y); context.lineTo(b, y); }
  for (const [a, b] of [[y0, y - gap], [y + gap, y1]]) if (b > a) { context.moveTo(x, a); context.lineTo(x, b); }
  context.stroke();
}
function letters(context, canvas, plane, dpr) {
  if (page.ends === null) return;
  const [u, v] = [page.ends[plane.u], page.ends[plane.v]], [left, right] = mirrored() ? [u[1], u[0]] : u;
  const margin = 5 * dpr, { width: w, height: h } = canvas;
  context.font = `600 ${15 * dpr}px system-ui, sans-serif`;
  context.lineWidth = 3 * dpr;
  context.strokeStyle = "#000";
  context.fillStyle = "#ffffff";
  for (const [text, x, y, align, base] of [[left, margin, h / 2, "left", "middle"], [right, w - margin, h / 2, "right",
    "middle"], [v[1], w / 2, margin, "center", "top"], [v[0], w / 2, h - margin, "center", "bottom"]]) {
    context.textAlign = align;
    context.textBaseline = base;
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  }
}

// The page around the pictures.
function number(value, step) {
  const digits = Math.min(Math.max(0, Math.ceil(-Math.log10(step || 1))), 12);
  const text = Math.abs(value) >= 1e7 || (step && step < 1e-9) ? value.toPrecision(7) : value.toFixed(digits);
  return text.replace("-", "\u2212");
}
function world() {
  return page.affine.slice(0, 3).map((row) => row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]);
}
function readout() {
  const mm = world().map((x) => number(x, 0.1)), i = at[0] + shape[0] * (at[1] + shape[1] * at[2]);
  const entries = [["Voxel, from 0", at.join(", ")]];
  if (page.ends) entries.unshift(["Right", `${mm[0]} mm`], ["Anterior", `${mm[1]} mm`], ["Superior", `${mm[2]} mm`]);
  else entries.unshift(["Orientation", "unknown"], ["Position", `${mm.join(", ")} mm`]);
  $("place").replaceChildren(...entries.flatMap(([name, text]) => [make("dt", name), make("dd", text)]));
  const rows = layers.map((layer) => {
    const half = halfStep(layer), known = ready(layer), value = known ? valueOf(layer, i) : NaN;
    const row = make("tr"), cell = make("td", known ? number(value, half) + (layer.kind === "phase" ? " rad" : "") : "\u2026");
    cell.dataset.value = value;
    row.append(make("th", layer.title), cell, make("td", half ? `\u00b1${half.toPrecision(1)}` : "exact"));
    row.firstChild.scope = "row";
    return row;
  });
  $("values").replaceChildren(...rows);
  const shown = [layers[$("first").value], layers[$("second").value]].filter(ready);
  $("spoken").textContent = shown.map((x) => `${x.title} ${number(valueOf(x, i), halfStep(x))}`).join("; ");
}
function make(tag, text = "", options = {}) {
  const element = Object.assign(document.createElement(tag), options);
  element.textContent = text;
  return element;
}
function windowText(group) {
  return windows[group].map((x) => Number(x.toPrecision(4))).join(" to ").replace(/-/g, "\u2212");
}
function controls() {
  const mode = $("mode").value, group = groupOf(layers[$("first").value]), [low, high] = windows[group];
  $("opacity-label").hidden = mode !== "blend";
  $("level").value = Number(((low + high) / 2).toPrecision(5));
  $("width").value = Number((high - low).toPrecision(5));
  const presets = group === "intensity" && page.unit === "HU" ? CT : {};
  const [c, w] = [(low + high) / 2, high - low], same = (a, b) => Math.abs(a - b) < 1e-6 * (Math.abs(w) || 1);
  const names = ["initial", ...Object.keys(presets), "whole range"];
  const chosen = Object.keys(presets).find((name) => same(presets[name][0], c) && same(presets[name][1], w)) ||
    (same(first[group][0], low) && same(first[group][1], high) ? "initial" : "");
  $("preset").replaceChildren(...["", ...names].map((x) => make("option", x || "other", { value: x, hidden: !x })));
  $("preset").value = chosen;
  document.querySelectorAll(".row").forEach((element, row) => {
    element.hidden = row > 0 && mode !== "both";
    const shown = shownLayers(row), key = groupOf(shown[shown.length - 1]), bar = element.querySelector(".bar");
    element.querySelector(".title").textContent = shown.map((layer) => layer.title).join(" + ");
    const lut = LUTS[key], hex = (n) => `#${[0, 8, 16].map((s) => ((lut[n] >>> s) & 255).toString(16).padStart(2, "0")).join("")}`;
    bar.style.background = `linear-gradient(to right, ${[0, 64, 127, 191, 255].map(hex).join(", ")})`;
    element.querySelector("small").textContent = `${windowText(key)} ${page.unit}`;
  });
}
let asked = false;
function refresh() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    controls();
    layout();
    views.filter((view) => view.canvas.offsetParent !== null).forEach(draw);
    for (const view of views) {
      const n = shape[view.plane.axis];
      view.slider.value = at[view.plane.axis];
      view.output.textContent = `${at[view.plane.axis] + 1} of ${n}`;
    }
    readout();
  });
}
// All planes have one scale, so that a millimetre is as long in each of them; an enlarged one fills the row.
function layout() {
  const rows = $("mode").value === "both" ? 2 : 1;
  const size = (axis) => shape[axis] * spacing[axis];
  for (const element of document.querySelectorAll(".row")) {
    const chosen = PLANES.filter((plane) => enlarged === null || plane.name === enlarged);
    element.style.gridTemplateColumns = chosen.map((plane) => `minmax(0, ${size(plane.u)}fr)`).join(" ");
  }
  const total = PLANES.filter((p) => enlarged === null || p.name === enlarged);
  const across = $("planes").clientWidth - 8 * (total.length - 1), most = (window.innerHeight - 250) / rows;
  const scale = Math.min(across / total.reduce((sum, p) => sum + size(p.u), 0),
    Math.max(most, 180) / Math.max(...total.map((p) => size(p.v))));
  const height = Math.round(scale * Math.max(...total.map((p) => size(p.v)))), dpr = window.devicePixelRatio || 1;
  for (const view of views) {
    view.figure.hidden = enlarged !== null && view.plane.name !== enlarged;
    view.canvas.style.height = `${height}px`;
    const w = Math.round(view.canvas.clientWidth * dpr), h = Math.round(height * dpr);
    if (view.canvas.width !== w || view.canvas.height !== h) [view.canvas.width, view.canvas.height] = [w, h];
  }
}
function move(axis, to) {
  at[axis] = Math.min(Math.max(Math.round(to), 0), shape[axis] - 1);
  refresh();
}
function setWindow(group, level, width) {
  if (!Number.isFinite(level) || !Number.isFinite(width)) return;
  width = Math.max(width, 1e-6 * (first[group][1] - first[group][0]));
  windows[group] = [level - width / 2, level + width / 2];
  refresh();
}
function pointed(view, event) {
  const box = view.canvas.getBoundingClientRect(), ratio = view.canvas.width / box.width, f = frame(view);
  const u = (((event.clientX - box.left) * ratio - f.x) / f.w) * shape[view.plane.u];
  const v = (1 - ((event.clientY - box.top) * ratio - f.y) / f.h) * shape[view.plane.v];
  move(view.plane.u, Math.floor(mirrored() ? shape[view.plane.u] - u : u));
  move(view.plane.v, Math.floor(v));
}
function listen(view) {
  const { canvas, plane } = view;
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    const shown = shownLayers(view.row), group = groupOf(shown[0]), [low, high] = windows[group];
    drag = event.button === 2 || event.shiftKey ? { x: event.clientX, y: event.clientY, group, low, high } : "cross";
    if (drag === "cross") pointed(view, event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag === "cross") pointed(view, event);
    else if (drag) {
      const { low, high, group } = drag, span = first[group][1] - first[group][0];
      const width = Math.max((high - low) + ((event.clientX - drag.x) / 300) * span, span / 1000);
      setWindow(group, (low + high) / 2 - ((drag.y - event.clientY) / 300) * span, width);
    }
  });
  canvas.addEventListener("pointerup", () => { drag = null; });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => enlarge(plane));
  let rolled = 0;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    rolled += event.deltaMode ? 40 * event.deltaY : event.deltaY;
    const steps = Math.abs(rolled) >= 40 ? Math.trunc(rolled / 40) || 0 : 0;
    rolled -= 40 * steps;
    // A notch of a mouse is 100 or 120 and moves by a slice; a touchpad moves by as much as the fingers did.
    if (steps) move(plane.axis, at[plane.axis] - (Math.abs(steps) <= 3 ? Math.sign(steps) : steps));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const across = mirrored() ? -1 : 1, n = shape[plane.axis];
    const moves = { ArrowLeft: [plane.u, at[plane.u] - across], ArrowRight: [plane.u, at[plane.u] + across],
      ArrowUp: [plane.v, at[plane.v] + 1], ArrowDown: [plane.v, at[plane.v] - 1], Home: [plane.axis, 0],
      PageUp: [plane.axis, at[plane.axis] + 1], PageDown: [plane.axis, at[plane.axis] - 1], End: [plane.axis, n - 1] };
    if (event.key === "Enter") enlarge(plane);
    else if (event.key in moves) move(...moves[event.key]);
    else return;
    event.preventDefault();
  });
}
function enlarge(plane) {
  enlarged = enlarged === plane.name ? null : plane.name;
  refresh();
}
function build() {
  for (const id of ["first", "second"]) $(id).replaceChildren(...layers.map((x, n) => make("option", x.title, { value: n })));
  const find = (...kinds) => layers.findIndex((layer) => kinds.includes(layer.kind));
  const recon = find("reconstruction"), other = [find("input"), find("truth"), find("spread")].find((n) => n >= 0);
  $("first").value = other === undefined || layers[other].kind === "spread" ? recon : other;
  $("second").value = other !== undefined && layers[other].kind === "spread" ? other : recon;
  if (layers.length === 1) $("mode").value = "one";
  for (const row of [0, 1]) {
    const element = make("div", "", { className: "row" }), title = make("h2");
    title.append(make("span", "", { className: "title" }), make("span", "", { className: "bar" }), make("small"));
    element.append(title);
    for (const plane of PLANES) {
      const figure = make("figure"), canvas = make("canvas", "", { className: "plane", tabIndex: 0 });
      const label = make("label", plane.name), output = make("output");
      const slider = make("input", "", { type: "range", min: 0, max: shape[plane.axis] - 1 });
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", `${plane.name} plane, ${row ? "second" : "first"}: arrows move the crosshair`);
      label.append(slider, output);
      figure.append(canvas, label);
      element.append(figure);
      const view = { row, plane, canvas, slider, output, figure };
      slider.addEventListener("input", () => move(plane.axis, Number(slider.value)));
      listen(view);
      views.push(view);
    }
    $("planes").append(element);
  }
  $("side-label").hidden = page.ends === null;
  $("unit").textContent = page.unit ? `Value (${page.unit})` : "Value";
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").addEventListener("input", (event) => {
    const group = groupOf(layers[$("first").value]);
    if (event.target.id === "level" || event.target.id === "width") return; // while it is typed
    if (event.target.id === "preset") preset(group, event.target.value);
    refresh();
  });
  for (const id of ["level", "width"]) {
    $(id).addEventListener("change", () =>
      setWindow(groupOf(layers[$("first").value]), $("level").valueAsNumber, $("width").valueAsNumber));
  }
  document.addEventListener("keydown", (event) => {
    if (/INPUT|SELECT/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "x") [$("first").value, $("second").value] = [$("second").value, $("first").value];
    else if (event.key === "r") Object.assign(windows, first);
    else return;
    refresh();
  });
  window.addEventListener("resize", refresh);
}
function preset(group, name) {
  if (name === "initial") windows[group] = first[group];
  else if (name in CT) setWindow(group, ...CT[name]);
  else if (name === "whole range") {
    let [low, high] = [Infinity, -Infinity];
    const layer = layers[$("first").value];
    for (let i = 0; i < shape[0] * shape[1] * shape[2]; i++) {
      const value = valueOf(layer, i);
      if (value < low) low = value;
      if (value > high) high = value;
    }
    setWindow(group, (low + high) / 2, high - low || 1);
  }
}
async function start() {
  build();
  const stored = layers.filter((layer) => layer.kind !== "error");
  const wanted = [$("first").value, $("second").value].map((n) => layers[n]);
  for (const layer of [...stored].sort((a, b) => wanted.includes(b) - wanted.includes(a))) {
    await unpack(layer, layers.indexOf(layer));
    refresh();
    await new Promise((done) => setTimeout(done));
  }
  const mm = spacing.map((x) => Number(x.toPrecision(3))).join(" \u00d7 ");
  $("status").textContent = `${shape.join(" \u00d7 ")} voxels of ${mm} mm` +
    (page.ends === null ? "; the orientation is unknown, and the volume may be mirrored" : "");
  document.body.dataset.ready = "true";
}
start().catch((error) => { $("status").textContent = `This page cannot be shown: ${error.message}`; });
