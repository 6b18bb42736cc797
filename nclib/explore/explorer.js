// @ts-check
/**
 * The explorer in the browser. Python sends each run's arrays once; everything else happens here: planes, interpolation
 * between checkpoints, drawing on one canvas, and what pointer and keys do.
 *
 * Texts from files (names of classes, runs and studies, problems) become text nodes or canvas text, never HTML.
 *
 * @typedef {{x: number, y: number, w: number, h: number}} Box
 * @typedef {{key: string, metric: string, split: string, title: string, panel: string, name: string, log: boolean,
 *            mayBeLog: boolean, floor: number|null, ceiling: number|null, theory: number|null}} Series
 * @typedef {{isLog: boolean, low: number, high: number, least: number, zero: number|null}} Axis
 * @typedef {{label: string, color: string, dash: number[], marker: number[][], problems: string[], series?: Series[],
 *            theory: Object<string, number>, classes?: string[], E: number, K: number, r: number, N: number, S: number,
 *            setLists: number[][], members: number[][], cache: Map<string, any>, [array: string]: any}} Run
 */

const NO_LABEL = 65535;
const NAMED_CLASSES = 20; // more names would hide the points
const LABELED_CELLS = 24; // more rows of a map are too narrow for names
const COLORED_SETS = 12; // more label sets in one plane, and only those of one label keep a color
const ROUND_DOTS = 3000; // more are drawn as pixels, which takes a tenth of the time
const ZERO = 1e-10; // metrics are float64: those that vanish for an exact ETF come out at about 4e-16
const POWERS = Array.from({ length: 41 }, (_, i) => i - 20);
const SECONDS_OF_PLAY = 9;
const LISTED_IMAGES = 36;
const AFTER = { figures: "log", log: "linear", linear: "figures" }; // scales in turn
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const VARIANTS = [1, 0.5, 0.3, 0.2]; // opacities of the lines of one run in one panel
const DOTTED = [1, 3]; // what theory or an ETF has
const ARRAYS = { F32: Float32Array, I8: Int8Array, I32: Int32Array, U16: Uint16Array, U8: Uint8Array };

// Data ---------------------------------------------------------------------------------------------------------------

/** @param {DataView|ArrayBuffer|Uint8Array} data */
const bytesOf = (data) => (
  ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data));

/** The text and the arrays of a safetensors file, and the shapes of these. */
export function unpack(data) {
  const bytes = bytesOf(data);
  const start = 8 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const { __metadata__: { text }, ...places } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const arrays = {};
  const shapes = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(places)) {
    arrays[name] = new ARRAYS[dtype](bytes.slice(start + from, start + to).buffer);
    shapes[name] = shape;
  }
  return { header: JSON.parse(text), arrays, shapes };
}

/** A run with its arrays and sizes: E checkpoints, K classes, r dimensions, N features, S label sets. @returns {Run} */
export function readRun(data) {
  const { header, arrays, shapes } = unpack(data);
  const run = { ...header, ...arrays, shapes, cache: new Map() };
  if (!run.classes) return run;
  [run.E, run.N, run.r] = run.shapes.rest;
  [run.S, run.K] = run.shapes.sets;
  const labelsIn = (s) => run.classes.map((_, k) => k).filter((k) => run.sets[s * run.K + k]);
  run.setLists = Array.from({ length: run.S }, (_, s) => labelsIn(s));
  run.members = run.setLists.map(() => []);
  run.set_of.forEach((s, n) => run.members[s].push(n));
  run.pairs = run.setLists.filter((set) => set.length === 2);
  run.isMulti = run.setLists.some((set) => set.length > 1);
  return run;
}

const row = (array, i, width) => array.subarray(i * width, (i + 1) * width);
const same = (a, b) => a.join() === b.join();
const nameOf = (run, labels) => labels.map((k) => run.classes[k]).join(" & ");
const labelsOf = (run, n) => run.setLists[run.set_of[n]];

/** Where an epoch lies among ascending ones: the last one up to it, and the share of the way. @returns {any} */
export function place(epochs, epoch) {
  const e = Math.max(epochs.findLastIndex((x) => x <= epoch), 0);
  const [now, next] = [epochs[e], epochs[e + 1]];
  return [e, epoch > now && next > now ? (epoch - now) / (next - now) : 0];
}

const mixed = (a, b, share) => a.map((x, i) => x + share * (b[i] - x));

/** Values of an array with the checkpoints first, between two of them. */
export function between(array, size, [e, share]) {
  return share ? mixed(row(array, e, size), row(array, e + 1, size), share) : row(array, e, size);
}

// Planes -------------------------------------------------------------------------------------------------------------

const dot = (a, b) => a.reduce((sum, x, j) => sum + x * b[j], 0);
const minus = (a, b) => Float64Array.from(a, (x, j) => x - b[j]);

/** What a vector has outside the span of orthonormal ones, as a unit vector; zero if that is nothing. */
function outside(vector, axes) {
  const rest = axes.reduce((left, axis) => minus(left, axis.map((x) => x * dot(left, axis))), vector);
  const size = Math.sqrt(dot(rest, rest));
  return rest.map((x) => (size > 1e-6 ? x / size : 0));
}

/**
 * The plane of a checkpoint and the axis that points out of it, in the run's coordinates.
 * @param {Run} run @param {number} e @param {any} plane "circle", "principal", or three classes
 */
export function frameOf(run, e, plane) {
  const { K, r } = run;
  const zero = new Float64Array(r);
  const coordinate = (j) => zero.map((_, i) => Number(i === j));
  if (plane === "circle") return { origin: zero, axes: [0, 1, 2].map((j) => row(run.circle, 3 * e + j, r)) };
  if (plane === "principal") return { origin: zero, axes: [0, 1, 2].map(coordinate) };
  const corners = plane.map((k) => row(run.means, e * K + k, r));
  const origin = zero.map((_, j) => (corners[0][j] + corners[1][j] + corners[2][j]) / 3);
  const up = outside(minus(corners[0], origin), []);
  const right = outside(minus(corners[2], corners[1]), [up]);
  const out = dot(origin, origin) > 1e-6 ? minus(zero, origin) : coordinate(r - 1);
  return { origin, axes: [right, up, outside(out, [right, up])] };
}

/** Rows of coordinates along the three axes of a frame. @param {any[]} axes */
function along(rows, r, axes, scale = 1) {
  const [u, v, w] = axes;
  const found = new Float32Array((3 * rows.length) / r);
  for (let p = 0, at = 0; p < rows.length; p += r, at += 3) {
    let [x, y, z] = [0, 0, 0];
    for (let j = 0; j < r; j += 1) {
      x += rows[p + j] * u[j];
      y += rows[p + j] * v[j];
      z += rows[p + j] * w[j];
    }
    [found[at], found[at + 1], found[at + 2]] = [scale * x, scale * y, scale * z];
  }
  return found;
}

/**
 * A checkpoint in a plane, in units of the class means' distance from their center; kept once it was computed.
 * `tips` are the ends of the classifier rows, `averages` the tag-wise averages of the pairs.
 */
export function project(run, e, plane) {
  const key = `${e} ${plane}`;
  const kept = run.cache.get(key);
  if (kept) return kept;
  const { K, r, N, S } = run;
  const { axes, origin } = frameOf(run, e, plane);
  const center = along(origin, r, axes, -1);
  const seen = (array, count) => along(row(array, e, count * r), r, axes).map((x, i) => x + center[i % 3]);
  const setMeans = seen(run.set_means, S);
  const points = along(row(run.rest, e, N * r), r, axes, run.step[e]);
  for (let n = 0; n < N; n += 1) {
    for (let c = 0; c < 3; c += 1) points[3 * n + c] += setMeans[3 * run.set_of[n] + c];
  }
  const averages = seen(run.averages, run.pairs.length);
  const pairMeans = setMeans.filter((_, i) => run.setLists[Math.floor(i / 3)].length === 2);
  const found = { center, points, means: seen(run.means, K), tips: seen(run.rows, K), pairMeans, averages };
  if (run.cache.size > 100) run.cache.clear(); // of many planes of three classes
  run.cache.set(key, found);
  return found;
}

/** What is seen between two checkpoints: both planes have one orientation, so positions move straight. */
export function projectBetween(run, [e, share], plane) {
  const first = project(run, e, plane);
  if (!share) return first;
  const next = project(run, e + 1, plane);
  return Object.fromEntries(Object.keys(first).map((what) => [what, mixed(first[what], next[what], share)]));
}

/** Turned about the vertical, then the horizontal axis, and seen from the front: two numbers each. */
export function turned(coordinates, [yaw, pitch]) {
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  const found = new Float32Array((2 * coordinates.length) / 3);
  for (let p = 0, at = 0; p < coordinates.length; p += 3, at += 2) {
    const [x, y, z] = [coordinates[p], coordinates[p + 1], coordinates[p + 2]];
    found[at] = x * cy + z * sy;
    found[at + 1] = y * cp - (z * cy - x * sy) * sp;
  }
  return found;
}

/** Where theory has the class means: corners of a simplex ETF, of which a plane shows a regular polygon. */
export function idealMeans(isCircle, count, K) {
  const radius = Math.sqrt(isCircle ? 2 / (K - 1) : (2 * K) / (3 * (K - 1)));
  const turns = Array.from({ length: count }, (_, i) => Math.PI / 2 + ((isCircle ? -2 : 2) * Math.PI * i) / count);
  return turns.map((turn) => [radius * Math.cos(turn), radius * Math.sin(turn), 0]);
}

// Numbers and names --------------------------------------------------------------------------------------------------

/** A number in about three digits. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

/** At most `most` round numbers in a range. */
export function linearTicks(low, high, most = 4) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** At least three round numbers in a range of positive ones: powers of ten if there are enough of them. */
export function logTicks(low, high, most = 5) {
  for (const steps of [[1], [1, 3], [1, 2, 5]]) {
    const ticks = POWERS.flatMap((e) => steps.map((step) => Number(`${step}e${e}`)));
    const within = ticks.filter((tick) => tick >= low * 0.9999 && tick <= high * 1.0001);
    const every = Math.ceil(within.length / most);
    if (within.length > 2) return within.filter((_, i) => i % every === 0);
  }
  return linearTicks(low, high).filter((tick) => tick > 0);
}

/** A name cut to fit a number of letters. */
export const shortened = (text, letters) => (text.length <= letters ? text : `${text.slice(0, letters - 1)}…`);

// Metrics ------------------------------------------------------------------------------------------------------------

const seriesOf = (runs) => runs.flatMap((run) => run.series ?? []);

/** The titles of all metrics, for the picker. */
export const titlesOf = (runs) => [...new Set(seriesOf(runs).map((s) => s.title))];

/** The lines of five panels; the last one shows the metric of a title, or the score. @returns {Series[][]} */
export function panelsOf(runs, title) {
  const all = [...new Map(seriesOf(runs).map((s) => [s.key, s])).values()];
  const trained = (...metrics) => (
    metrics.flatMap((metric) => all.filter((s) => s.metric === metric && s.split === "train")));
  const ratios = trained("tag_wise_ratio");
  const score = all.some((s) => s.metric === "tag_wise_scale") ? "soft_iou" : "top1";
  return [
    trained("nc1"), trained("nc2_w_centered", "nc2_h_centered"), trained("nc3_centered"),
    ratios.length ? ratios : trained("nc4"),
    all.filter((s) => (title ? s.title === title : s.metric === score)),
  ];
}

/** One line of a run: its epochs and values; null if it was not measured. */
function valuesOf(run, { key }) {
  const at = (run.series ?? []).findIndex((s) => s.key === key);
  return at < 0 ? null : { epochs: run.metric_epochs, values: row(run.values, at, run.metric_epochs.length) };
}

/** The value at an epoch, on the straight line between two. */
const valueAt = (line, epoch) => between(line.values, 1, place(line.epochs, epoch))[0];

/**
 * The axis that the values of a panel ask for: as in the figures, unless another scale was chosen.
 * @param {number[]} values @param {Series} [series] @param {string} [scale] "figures", "log" or "linear"
 * @returns {Axis}
 */
export function axisOf(values, series, scale) {
  const finite = values.filter(Number.isFinite);
  const above = finite.filter((x) => x > ZERO);
  const [least, most] = [Math.min(...above), Math.max(...above)];
  const isLog = scale === "log" ? series?.mayBeLog : scale === "figures" && series?.log && most > 10 * least;
  if (isLog && above.length) {
    const decades = Math.log10(most / least) || 1;
    const zero = above.length < finite.length ? least / 10 ** Math.max(0.15 * decades, 0.1) : null;
    const beside = 10 ** (0.04 * decades);
    return { isLog: true, low: (zero ?? least) / beside, high: most * beside, least, zero };
  }
  const [first, last] = finite.length ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
  const margin = 0.06 * (last - first) || Math.abs(last) * 0.05 || 0.05;
  const low = series?.floor ?? first - margin;
  const ceiling = series?.ceiling ?? Infinity;
  const high = last + margin > ceiling ? ceiling + 0.02 * (ceiling - low) : last + margin;
  return { isLog: false, low, high, least: low, zero: null };
}

/** Where a value lies on an axis, from 0 to 1; zeros of a logarithmic one lie beside its least value. */
export function onAxis({ isLog, low, high, zero }, value) {
  if (!isLog) return (value - low) / (high - low);
  return Math.log((value > ZERO ? value : (zero ?? low)) / low) / Math.log(high / low);
}

/** The value at a share of an axis. */
export const valueOn = ({ isLog, low, high }, share) => (
  isLog ? low * (high / low) ** share : low + share * (high - low));

/** @param {Axis} axis */
const ticksOf = ({ isLog, low, high, least, zero }) => (
  isLog ? [...(zero ? [0] : []), ...logTicks(least, high)] : linearTicks(low, high));

// Drawing ------------------------------------------------------------------------------------------------------------

/** Shapes and texts on a canvas; `SvgPen` writes the same as SVG. */
export class CanvasPen {
  /** @param {CanvasRenderingContext2D} context */
  constructor(context) {
    this.context = Object.assign(context, { imageSmoothingEnabled: false, lineJoin: "round", textBaseline: "middle" });
  }

  /** A line through pairs of numbers. @param {ArrayLike<number>} xy */
  line(xy, color, { width = 1, dash = [], alpha = 1, fill = "", closed = false } = {}) {
    const { context } = this;
    context.globalAlpha = alpha;
    context.beginPath();
    for (let i = 0; i < xy.length; i += 2) context.lineTo(xy[i], xy[i + 1]);
    if (closed) context.closePath();
    context.fillStyle = fill;
    if (fill) context.fill();
    context.strokeStyle = color;
    context.lineWidth = width;
    context.setLineDash(dash);
    if (color) context.stroke();
    context.globalAlpha = 1;
  }

  /** Dots at some of the places `xy`. @param {number[]} members */
  dots(xy, members, radius, color, alpha = 1) {
    const { context } = this;
    context.beginPath();
    for (const n of members) {
      context.roundRect(xy[2 * n] - radius, xy[2 * n + 1] - radius, 2 * radius, 2 * radius, radius);
    }
    context.globalAlpha = alpha;
    context.fillStyle = color;
    context.fill();
    context.globalAlpha = 1;
  }

  /** A text whose middle is at the height y. */
  text(text, x, y, { color, size = 11, align = "left", bold = false, upright = false, halo = "" }) {
    const { context } = this;
    const [from, to] = upright ? [-y, x] : [x, y];
    if (upright) context.rotate(-Math.PI / 2);
    context.font = fontOf(size, bold);
    context.textAlign = /** @type {any} */ (align);
    context.fillStyle = color;
    if (halo) {
      context.strokeStyle = halo;
      context.lineWidth = 3;
      context.setLineDash([]);
      context.strokeText(text, from, to);
    }
    context.fillText(text, from, to);
    if (upright) context.rotate(Math.PI / 2);
  }

  /** How wide a text is. */
  width(text, size, bold = false) {
    this.context.font = fontOf(size, bold);
    return this.context.measureText(text).width;
  }

  image(canvas, { x, y, w, h }) { this.context.drawImage(canvas, x, y, w, h); }

  /** @param {Box} box @param {() => void} draw what is cut off outside of the box */
  clip({ x, y, w, h }, draw) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(x, y, w, h);
    this.context.clip();
    draw();
    this.context.restore();
  }
}

const fontOf = (size, bold) => `${bold ? 600 : 400} ${size}px ${FONT}`;

const number = (x) => String(Math.round(10 * x) / 10);
const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const tag = (name, attributes, text = "") => {
  const given = Object.entries(attributes).map(([key, value]) => ` ${key}="${escaped(value)}"`);
  return `<${name}${given.join("")}>${escaped(text)}</${name}>`;
};

export class SvgPen {
  /** @param {CanvasPen} measure */
  constructor(measure) {
    this.parts = [];
    this.clips = 0;
    this.width = measure.width.bind(measure);
  }

  file({ w, h }) {
    const box = `width="${w}" height="${h}" viewBox="0 0 ${w} ${h}"`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${box}>${this.parts.join("")}</svg>`;
  }

  line(xy, color, { width = 1, dash = [], alpha = 1, fill = "none", closed = false } = {}) {
    const d = `M${Array.from(xy, number).join(" ")}${closed ? "Z" : ""}`;
    const look = { stroke: color || "none", "stroke-width": width, "stroke-dasharray": dash.join(" "), opacity: alpha };
    this.parts.push(tag("path", { d, fill, "stroke-linejoin": "round", ...look }));
  }

  dots(xy, members, radius, color, alpha = 1) {
    const d = members.map((n) => `M${number(xy[2 * n])} ${number(xy[2 * n + 1])}h0`).join("");
    const look = { "stroke-width": 2 * radius, "stroke-linecap": "round", opacity: alpha };
    this.parts.push(tag("path", { d, stroke: color, ...look }));
  }

  text(text, x, y, { color, size = 11, align = "left", bold = false, upright = false, halo = "" }) {
    const anchor = { left: "start", center: "middle", right: "end" }[align];
    const place_ = { transform: `translate(${number(x)} ${number(y)}) rotate(${upright ? -90 : 0})` };
    const look = { fill: color, stroke: halo || "none", "stroke-width": 3, "paint-order": "stroke" };
    const type = { "text-anchor": anchor, "dominant-baseline": "central", style: `font: ${fontOf(size, bold)}` };
    this.parts.push(tag("text", { ...place_, ...look, ...type }, text));
  }

  image(canvas, box) {
    const look = { preserveAspectRatio: "none", style: "image-rendering: pixelated", href: canvas.toDataURL() };
    this.parts.push(tag("image", { x: box.x, y: box.y, width: box.w, height: box.h, ...look }));
  }

  clip({ x, y, w, h }, draw) {
    this.clips += 1;
    const id = `clip${this.clips}`;
    const rect = `<rect x="${x}" y="${y}" width="${w}" height="${h}"/>`;
    this.parts.push(`<clipPath id="${id}">${rect}</clipPath><g clip-path="url(#${id})">`);
    draw();
    this.parts.push("</g>");
  }
}

/** The text cut to fit a width. */
function fitted(pen, text, room, size, bold = false) {
  let letters = text.length;
  while (letters > 2 && pen.width(shortened(text, letters), size, bold) > room) letters -= 1;
  return shortened(text, letters);
}

const sized = (canvas, width, height) => (
  canvas.width === width && canvas.height === height ? canvas : Object.assign(canvas, { width, height }));
const inside = ({ x, y, w, h }, px, py) => px >= x && px <= x + w && py >= y && py <= y + h;
const outline = ({ x, y, w, h }) => [x, y, x + w, y, x + w, y + h, x, y + h];

/** A cosine of a simplex ETF: of a cell in a map of K x K. */
const idealCosine = (cell, K) => (cell % (K + 1) ? -1 / (K - 1) : 1);

/** The views of some runs: what each shows, and of which panel or run. */
export function viewsOf(runs) {
  const each = (kind) => runs.map((_, at) => ({ kind, at }));
  return [
    ...[0, 1, 2, 3, 4].map((at) => ({ kind: "metrics", at })),
    ...["plane", "means", "classifier", "angles"].flatMap(each),
    ...["etf", "margins", "legend"].map((kind) => ({ kind, at: 0 })),
  ];
}

/** Everything that a state shows, drawn on a canvas or as SVG; what can be pointed at is left in `hits`. */
export class Scene {
  /**
   * @param {Run[]} runs @param {any} state of `View` @param {Object<string, string>} theme colors by what they are for
   * @param {Object<string, Uint32Array>} maps their pixels @param {() => any} makeCanvas
   */
  constructor(runs, state, theme, maps, makeCanvas) {
    this.runs = runs;
    this.state = state;
    this.theme = theme;
    this.maps = maps;
    this.makeCanvas = makeCanvas;
    this.canvases = {};
    this.hits = [];
    const epochs = new Set(runs.flatMap((run) => [...run.epochs ?? run.metric_epochs ?? []]));
    this.epochs = Float64Array.from(epochs.size ? epochs : [0]).sort();
    this.span = [this.epochs[0], Math.max(this.epochs[this.epochs.length - 1], this.epochs[0] + 1)];
    this.known = runs.filter((run) => run.classes);
    this.colors = runs.map((run, i) => (i && run.color === runs[0].color ? theme.ink : run.color));
    const angles = Float32Array.from(this.known.flatMap((run) => [...run.angles].filter((x) => x > 0.01))).sort();
    const [low, high] = [angles[0] ?? 1, angles[angles.length - 1] ?? 90];
    this.angleRange = [Math.min(low, high / 2), high]; // of all epochs, so that the scale stands still
  }

  /** The epoch of a position on the slider; between checkpoints while it plays. */
  get epoch() { return between(this.epochs, 1, [Math.floor(this.state.at), this.state.at % 1])[0]; }

  /** The checkpoint of a run: while the slider stands, the last one up to its epoch. @returns {any} */
  placeOf(run) {
    const [e, share] = place(run.epochs, this.epoch);
    return [e, this.state.at % 1 ? share : 0];
  }

  get plane() { return this.state.plane === "three" ? this.state.corners : this.state.plane; }

  /** @param {CanvasPen|SvgPen} pen @param {any[]} views with their boxes @param {Box} sheet all of them */
  draw(pen, views, sheet) {
    this.hits = [];
    pen.line(outline(sheet), "", { fill: this.theme.paper, closed: true });
    const panels = panelsOf(this.runs, this.state.metric);
    for (const { kind, at, box } of views) {
      if (kind === "metrics") this.drawMetrics(pen, box, panels[at]);
      else if (kind === "plane") this.drawPlane(pen, box, at);
      else if (!this.known.length) continue;
      else if (kind === "margins") this.drawMargins(pen, box);
      else if (kind === "legend") this.drawLegend(pen, box);
      else this.drawMap(pen, box, kind, at);
    }
  }

  /** A small text in gray. */
  note(pen, text, x, y, align = "left", size = 9.5) { pen.text(text, x, y, { color: this.theme.grey, size, align }); }

  /** A run's marker, as in the figures. */
  drawMarker(pen, x, y, i, size) {
    const xy = this.runs[i].marker.flatMap(([dx, dy]) => [x + size * dx, y - size * dy]);
    pen.line(xy, this.theme.paper, { width: 0.6, fill: this.colors[i], closed: true });
  }

  /** A view's title, after the marker of its run, and a note on the right if there is room. */
  drawTitle(pen, box, text, { run = -1, note = "", size = 12 } = {}) {
    const left = box.x + (run < 0 ? 0 : 14);
    const room = box.x + box.w - left;
    if (run >= 0) this.drawMarker(pen, box.x + 5, box.y + 8, run, 9);
    pen.text(fitted(pen, text, room, size, true), left, box.y + 8, { color: this.theme.ink, size, bold: true });
    if (pen.width(text, size, true) + 8 + pen.width(note, 9.5) > room) return;
    this.note(pen, note, box.x + box.w, box.y + 8, "right");
  }

  /** Axes with round numbers; what places values on them, and where they lie. */
  drawAxes(pen, box, across, up) {
    const { grey, faint } = this.theme;
    const plot = { x: box.x + 38, y: box.y + 22, w: box.w - 48, h: box.h - 40 };
    const x = (value) => plot.x + onAxis(across, value) * plot.w;
    const y = (value) => plot.y + (1 - onAxis(up, value)) * plot.h;
    for (const tick of ticksOf(up)) {
      pen.line([plot.x, y(tick), plot.x + plot.w, y(tick)], faint, { width: 0.6 });
      this.note(pen, short(tick), plot.x - 4, y(tick), "right");
    }
    this.drawTicks(pen, ticksOf(across).filter(Number.isInteger), x, plot.y + plot.h + 10);
    pen.line([plot.x, plot.y, plot.x, plot.y + plot.h, plot.x + plot.w, plot.y + plot.h], grey, { width: 0.8 });
    return { plot, x, y };
  }

  /** Numbers below an axis, as many as have room. */
  drawTicks(pen, ticks, x, y, unit = "") {
    let last = -Infinity;
    for (const tick of ticks) {
      if (x(tick) - last < 24) continue;
      last = x(tick);
      this.note(pen, short(tick) + unit, last, y, "center");
    }
  }

  drawMetrics(pen, box, panel) {
    const { theme, state, epoch, epochs } = this;
    const lines = this.runs.flatMap((run, i) => panel.flatMap((series, j) => {
      const found = valuesOf(run, series);
      return found ? [{ ...found, series, run: i, alpha: VARIANTS[j % 4] }] : [];
    }));
    const [title, names] = panel.length > 1 ? [panel[0].panel, panel.map(({ name }) => name)] : [panel[0]?.title, []];
    this.drawTitle(pen, box, title ?? "not measured", { note: names.join(", pale: ") });
    const predicted = lines.filter(({ series }) => state.theory && series.theory !== null);
    const values = [...lines.flatMap((line) => [...line.values]), ...predicted.map(({ series }) => series.theory)];
    const [low, high] = state.span ?? this.span;
    const within = [low, ...epochs.filter((e) => e > low && e < high), high];
    const logarithmic = axisOf(within, { ...panel[0], mayBeLog: true }, "log");
    const across = state.logEpochs ? logarithmic : { isLog: false, low, high };
    const { plot, x, y } = this.drawAxes(pen, box, across, axisOf(values, panel[0], state.scale));
    pen.clip({ x: plot.x - 1, y: plot.y - 3, w: plot.w + 7, h: plot.h + 6 }, () => {
      pen.line([x(epoch), plot.y, x(epoch), plot.y + plot.h], theme.grey);
      for (const { run, series } of predicted) {
        const level = y(series.theory);
        pen.line([plot.x, level, plot.x + plot.w, level], this.colors[run], { width: 1.2, dash: DOTTED });
      }
      for (const { run, alpha, ...line } of lines) {
        const shown = [...line.values.keys()].filter((e) => Number.isFinite(line.values[e]));
        const xy = shown.flatMap((e) => [x(line.epochs[e]), y(line.values[e])]);
        pen.line(xy, this.colors[run], { width: 1.6, dash: this.runs[run].dash, alpha });
        const now = valueAt(line, epoch);
        if (Number.isFinite(now)) this.drawMarker(pen, x(epoch), y(now), run, 8);
      }
    });
    const named = ({ run, series }) => this.runs[run].label + (names.length ? `, ${series.name}` : "");
    const told = lines.map((line) => `${named(line)}: ${short(valueAt(line, epoch))}`);
    const words = () => [`${title}, epoch ${Number(epoch.toFixed(1))}`, ...told];
    this.hits.push({ kind: "metrics", box: { ...plot, y: box.y, h: box.h }, words, across });
  }

  drawPlane(pen, box, i) {
    const { theme, state, plane } = this;
    const run = this.runs[i];
    const frame = { x: box.x + 0.5, y: box.y + 19.5, w: box.w - 1, h: box.h - 20 };
    pen.line(outline(frame), theme.faint, { closed: true });
    const now = run.classes && this.placeOf(run);
    const epoch = now?.[1] ? this.epoch.toFixed(1) : run.epochs?.[now[0]];
    this.drawTitle(pen, box, run.label + (now ? ` · epoch ${epoch}` : ""), { run: i });
    if (!now) {
      this.note(pen, "no features yet", frame.x + frame.w / 2, frame.y + frame.h / 2, "center", 11);
      return;
    }
    const reach = plane === "circle" ? (run.isMulti ? 1.6 : 1.3) * Math.sqrt(2 / Math.max(run.K - 1, 2)) : 1.4;
    const scale = (Math.min(frame.w, frame.h) / 2 / reach) * state.zoom;
    const [cx, cy] = [frame.x + (0.5 + state.pan[0]) * frame.w, frame.y + 0.5 * frame.h + state.pan[1] * frame.w];
    const place_ = (x, p) => (p % 2 ? cy - scale * x : cx + scale * x);
    const onScreen = (coordinates) => turned(coordinates, state.turn).map(place_);
    const view = projectBetween(run, now, plane);
    const screen = Object.fromEntries(Object.keys(view).map((what) => [what, onScreen(view[what])]));
    const classes = Array.isArray(plane) ? plane : run.classes.map((_, k) => k);
    const shown = [...run.setLists.keys()].filter((s) => run.setLists[s].every((k) => classes.includes(k)));
    const members = shown.flatMap((s) => run.members[s]);
    // of many label sets, those of several labels are gray: their mixed colors would muddle
    const colorOf = (s) => (shown.length > COLORED_SETS && run.setLists[s].length > 1 ? theme.grey : run.colors[s]);
    pen.clip(frame, () => {
      const groups = shown.reverse().map((s) => ({ members: run.members[s], color: colorOf(s) }));
      if (run.N > ROUND_DOTS) this.drawPixels(pen, `dots ${i}`, frame, screen.points, groups);
      else groups.forEach((group) => pen.dots(screen.points, group.members, 2, group.color, 0.65));
      pen.dots(screen.points, members.filter((n) => state.chosen.has(n) || n === state.hover), 3.5, theme.chosen);
      const isSimplex = !run.theory.nc2_h_centered; // theory expects another geometry where counts are imbalanced
      if (state.theory && plane !== "principal" && isSimplex) this.drawIdeal(pen, onScreen, run, classes);
      this.drawClasses(pen, screen, run, classes, frame);
    });
    const out = members.filter((n) => !inside(frame, screen.points[2 * n], screen.points[2 * n + 1])).length;
    const note = out ? `${out} of ${members.length} points outside` : "";
    pen.text(note, frame.x + 5, frame.y + frame.h - 9, { color: theme.grey, size: 10, halo: theme.paper });
    const words = (x, y) => this.wordsOf(run, nearest({ run, screen, members, classes }, x, y), now[0]);
    this.hits.push({ kind: "plane", box: frame, run, screen, classes, members, words });
  }

  /** Thousands of dots, as pixels of an image. */
  drawPixels(pen, slot, frame, xy, groups) {
    const box = { x: Math.round(frame.x), y: Math.round(frame.y), w: Math.round(frame.w), h: Math.round(frame.h) };
    const pixels = new Uint32Array(box.w * box.h);
    for (const { members, color } of groups) {
      const pixel = parseInt(`b0${color.slice(5)}${color.slice(3, 5)}${color.slice(1, 3)}`, 16); // little-endian
      for (const n of members) {
        const [x, y] = [Math.round(xy[2 * n]) - box.x, Math.round(xy[2 * n + 1]) - box.y];
        if (x < 1 || x >= box.w || y < 1 || y >= box.h) continue;
        for (const p of [y * box.w + x, (y - 1) * box.w + x]) pixels.fill(pixel, p - 1, p + 1);
      }
    }
    pen.image(this.imageOf(slot, pixels, box.w), box);
  }

  /** What is said of a mean or a feature. */
  wordsOf(run, { labels = null, point = -1 }, e) {
    if (labels) return [`mean of ${nameOf(run, labels)}`];
    if (point < 0) return [];
    const at = e * run.N + point;
    const predicted = [...row(run.predicted, at, run.shapes.predicted[2])].filter((k) => k !== NO_LABEL);
    const margin = run.margin[at];
    const words = Number.isFinite(margin) ? `cosine margin ${margin.toFixed(3)}` : "several labels: no margin";
    return [`labels: ${nameOf(run, labelsOf(run, point))}`, `predicted: ${nameOf(run, predicted)}`, words];
  }

  /** Class means as theory has them, and the pair means it predicts from them. */
  drawIdeal(pen, onScreen, run, classes) {
    const { ink } = this.theme;
    const ideal = idealMeans(this.plane === "circle", classes.length, run.K);
    pen.line(onScreen(ideal.flat()), ink, { dash: DOTTED, closed: true });
    const scale = run.theory.tag_wise_scale_2;
    if (scale === undefined || run.K > NAMED_CLASSES) return;
    const sums = ideal.flatMap((a, i) => ideal.slice(0, i).map((b) => a.map((x, c) => scale * (x + b[c]))));
    const places = onScreen(sums.flat());
    const look = { color: ink, size: 14, align: "center" };
    for (let p = 0; p < places.length; p += 2) pen.text("+", places[p], places[p + 1], look);
  }

  drawClasses(pen, screen, run, classes, frame) {
    const { ink, grey, paper } = this.theme;
    const isCrowded = run.K > NAMED_CLASSES && classes.length > 3;
    const look = isCrowded ? { width: 0.7, alpha: 0.5 } : { width: 1.3 };
    for (const k of classes) {
      pen.line([...screen.center, ...row(screen.tips, k, 2)], isCrowded ? run.classColors[k] : ink, look);
    }
    const pairs = [...run.pairs.keys()].filter((p) => !isCrowded && run.pairs[p].every((k) => classes.includes(k)));
    for (const p of pairs) {
      const [[x, y], [ax, ay]] = [row(screen.pairMeans, p, 2), row(screen.averages, p, 2)];
      pen.line(outline({ x: ax - 4.5, y: ay - 4.5, w: 9, h: 9 }), ink, { width: 0.9, closed: true });
      pen.line([x, y - 3.5, x + 3.5, y, x, y + 3.5, x - 3.5, y], "", { fill: grey, closed: true });
    }
    for (const k of classes) {
      pen.dots(screen.means, [k], isCrowded ? 3.6 : 6.6, paper);
      pen.dots(screen.means, [k], isCrowded ? 3 : 5.5, run.classColors[k]);
    }
    if (isCrowded) return;
    const names = classes.map((k) => ({ text: run.classes[k], at: row(screen.means, k, 2) }));
    const named = classes.length === 3 ? pairs : [];
    names.push(...named.map((p) => ({ text: nameOf(run, run.pairs[p]), at: row(screen.averages, p, 2) })));
    this.drawNames(pen, names, screen.center, frame);
  }

  /** Names beside places, on the side away from the center; one that would cover another is left to hovering. */
  drawNames(pen, names, [cx, cy], frame) {
    /** @type {Box[]} */
    const taken = [];
    for (const { text, at: [x, y] } of names) {
      const size = Math.hypot(x - cx, y - cy) || 1;
      const shown = shortened(text, 14);
      const w = pen.width(shown, 11);
      const [px, py] = [x + ((x - cx) / size) * (13 + w / 2) - w / 2, y + ((y - cy) / size) * 14 - 6];
      const left = Math.min(Math.max(px, frame.x + 2), frame.x + frame.w - w - 2);
      const top = Math.min(Math.max(py, frame.y + 2), frame.y + frame.h - 14);
      if (!inside(frame, x, y)) continue;
      if (taken.some((b) => b.x < left + w && left < b.x + b.w && b.y < top + 12 && top < b.y + 12)) continue;
      taken.push({ x: left, y: top, w, h: 12 });
      pen.text(shown, left, top + 6, { color: this.theme.ink, halo: this.theme.paper });
    }
  }

  drawMap(pen, box, kind, i) {
    const run = kind === "etf" ? this.known[0] : this.runs[i];
    if (!run.classes) return;
    const { K } = run;
    const longest = Math.max(...run.classes.map((text) => text.length));
    const room = K > LABELED_CELLS ? 4 : Math.min(5.4 * longest + 8, 40);
    const side = Math.round(Math.max(Math.min(box.w - room, box.h - 18 - room), 20));
    const cells = { x: Math.round(box.x + room), y: Math.round(box.y + 18), w: side, h: side };
    const values = this.cellsOf(kind, run);
    const axis = this.colorAxis(kind === "angles", K);
    const colors = this.maps[kind === "angles" ? "angle" : "cosine"];
    const pixels = new Uint32Array(K * K); // without a color where there is no value
    values.forEach((x, c) => { pixels[c] = colors[Math.round(255 * Math.min(Math.max(onAxis(axis, x), 0), 1))]; });
    pen.image(this.imageOf(`${kind} ${i}`, pixels, K), cells);
    const ofAngles = run.isMulti ? "pair angles" : "angle errors";
    const title = { means: "class means", classifier: "classifier", etf: "simplex ETF", angles: ofAngles }[kind];
    const look = { run: kind === "etf" ? -1 : i, note: this.noteOf(kind, values, K), size: 10.5 };
    this.drawTitle(pen, { ...box, w: room + side }, title, look);
    if (K <= LABELED_CELLS) this.drawCellNames(pen, cells, run.classes, room - 4);
    const [a, b = a, ...more] = this.state.labels;
    for (const [line, column] of a === undefined || more.length || kind === "etf" ? [] : [[a, b], [b, a]]) {
      const step = side / K;
      const cell = outline({ x: cells.x + column * step, y: cells.y + line * step, w: step, h: step });
      pen.line(cell, this.theme.paper, { width: 3.4, closed: true });
      pen.line(cell, this.theme.chosen, { width: 1.7, closed: true });
    }
    const words = (x, y) => {
      const cell = cellAt({ box: cells, run }, x, y);
      const value = values[cell[0] * K + cell[cell.length - 1]];
      const told = kind === "angles" ? `${value.toFixed(3)}°` : `cosine ${value.toFixed(4)}`;
      return [nameOf(run, cell), Number.isNaN(value) ? "not in the training data" : told];
    };
    this.hits.push({ kind: "map", box: cells, run, words });
  }

  cellsOf(kind, run) {
    const { K } = run;
    if (kind === "etf") return new Float32Array(K * K).map((_, c) => idealCosine(c, K));
    const array = { means: run.gram_features, classifier: run.gram_weight, angles: run.angles }[kind];
    return between(array, K * K, this.placeOf(run));
  }

  /** Largest distance of a cosine from its ideal, as in the figures; mean of the angles beside the diagonal. */
  noteOf(kind, values, K) {
    if (kind === "etf") return `${short(idealCosine(1, K))} beside 1`;
    const worst = (most, x, c) => Math.max(most, Math.abs(x - idealCosine(c, K)));
    if (kind !== "angles") return `within ${short(values.reduce(worst, 0))}`;
    const angles = values.filter((x, c) => c % (K + 1) && !Number.isNaN(x));
    return angles.length ? `mean ${short(angles.reduce((a, b) => a + b) / angles.length)}°` : "no pairs";
  }

  /** Pixels as an image of some width, on a canvas that each frame uses again. */
  imageOf(slot, pixels, width) {
    const canvas = sized(this.canvases[slot] ??= this.makeCanvas(), width, pixels.length / width);
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    new Uint32Array(image.data.buffer).set(pixels);
    context.putImageData(image, 0, 0);
    return canvas;
  }

  /** The scale of a color map. @returns {Axis} */
  colorAxis(isAngle, K) {
    const [low, high] = isAngle ? this.angleRange : [-1 / (K - 1) - 0.2, 1];
    return { isLog: isAngle, low, high, least: low, zero: null };
  }

  /** Class names beside the rows, and below the columns: upright where they are longer than a cell. */
  drawCellNames(pen, cells, names, room) {
    const step = cells.w / names.length;
    const size = Math.min(9.5, step + 1);
    const upright = Math.max(...names.map((text) => pen.width(text, size))) > step - 2;
    const look = { color: this.theme.grey, size, upright, align: upright ? "right" : "center" };
    names.forEach((text, k) => {
      const shown = fitted(pen, text, room, size);
      this.note(pen, shown, cells.x - 3, cells.y + (k + 0.5) * step, "right", size);
      pen.text(shown, cells.x + (k + 0.5) * step, cells.y + cells.h + (upright ? 3 : 8), look);
    });
  }

  drawMargins(pen, box) {
    const what = this.state.margins;
    this.drawTitle(pen, box, what === "margins" ? "cosine margins" : "margins as released");
    const K = Math.max(...this.known.map((run) => run.K));
    const ideal = K / (K - 1);
    const low = Math.min(0, ...this.known.flatMap((run) => [...run[what]])); // of all epochs
    const up = { isLog: false, low: low - 0.05, high: ideal + 0.12 };
    const { plot, x, y } = this.drawAxes(pen, { ...box, h: box.h - 14 }, { isLog: false, low: 0, high: 100 }, up);
    pen.line([plot.x, y(ideal), plot.x + plot.w, y(ideal)], this.theme.ink, { dash: DOTTED });
    const images = what === "margins" ? "images of the sample" : "training images";
    const text = fitted(pen, `% of the one-label ${images}, by margin`, plot.w, 10);
    this.note(pen, text, plot.x, box.y + box.h - 8, "left", 10);
    const curves = this.runs.flatMap((run, i) => {
      const count = run.shapes[what]?.[1];
      return count ? [{ run: i, margins: between(run[what], count, this.placeOf(run)) }] : [];
    });
    for (const { run, margins } of curves) {
      const xy = [...margins].flatMap((value, m) => [x((100 * m) / Math.max(margins.length - 1, 1)), y(value)]);
      pen.line(xy, this.colors[run], { width: 1.7, dash: this.runs[run].dash });
    }
    const words = (at) => curves.map(({ run, margins }) => {
      const share = (at - plot.x) / plot.w;
      const value = short(margins[Math.round(share * (margins.length - 1))]);
      return `${this.runs[run].label}: ${Math.round(100 * share)} % lie below ${value}`;
    });
    this.hits.push({ kind: "margins", box: plot, words });
  }

  drawLegend(pen, box) {
    const half = (box.w - 38) / 2;
    ["cosine", "angle"].forEach((what, b) => {
      const bar = { x: box.x + 38 + b * half, y: box.y + 16, w: half - 26, h: 8 };
      const axis = this.colorAxis(b === 1, this.known[0].K);
      pen.image(this.imageOf(what, this.maps[what], 256), bar);
      this.note(pen, what, bar.x, bar.y - 7);
      this.drawTicks(pen, ticksOf(axis), (tick) => bar.x + onAxis(axis, tick) * bar.w, bar.y + 15, b ? "°" : "");
    });
    const pairs = this.known.some((run) => run.pairs.length) ? ["◆  pair mean", "□  tag-wise average"] : [];
    const theory = this.state.theory ? ["┈ +  predicted"] : [];
    ["•  training image", "●  class mean", "—  classifier row", ...pairs, ...theory].forEach((text, s) => {
      const [x, y] = [box.x + 38 + (s % 2) * Math.min(half, 150), box.y + 52 + 17 * Math.floor(s / 2)];
      pen.text(text, x, y, { color: this.theme.ink, size: 10.5 });
    });
  }
}

// Widget -------------------------------------------------------------------------------------------------------------

/**
 * A new element; text becomes a text node, so nothing from a file is ever read as HTML.
 * @param {string} kind @param {any} properties @param {...(Node|string)} children @returns {any}
 */
function el(kind, { style = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(kind), properties);
  Object.assign(element.style, style);
  element.append(...children);
  return element;
}

/** @param {any} select @param {[string, string|number][]} options text and value */
function offer(select, options, value) {
  select.replaceChildren(...options.map(([text, key]) => el("option", { textContent: text, value: String(key) })));
  select.value = String(value);
  select.disabled = options.length < 2;
}

/** Whether the host shows a dark theme: JupyterLab, Notebook and Voilà, VS Code, Colab, or the system's. */
function isDark() {
  const { body, documentElement: html } = document;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
  if (body.dataset.vscodeThemeKind) return /dark|high-contrast$/.test(body.dataset.vscodeThemeKind);
  if (html.hasAttribute("theme")) return html.getAttribute("theme") === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

const px = (box) => Object.fromEntries(Object.entries(box).map(([key, value]) => [key, `${value}px`]));

class View {
  /** @param {any} model of anywidget @param {HTMLElement} root */
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.state = {
      at: 0, playing: false, plane: "circle", corners: [0, 1, 2], turn: [0, 0], zoom: 1, pan: [0, 0], metric: "",
      scale: "figures", logEpochs: false, span: null, margins: "margins", theory: false, chosen: new Set(), labels: [],
      hover: null,
    };
    this.urls = {}; // of the files with images
    root.classList.add("nc-explorer");
    root.tabIndex = 0;
    root.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the keys
    root.innerHTML = model.get("shown").controls; // explorer.html
    /** @type {Object<string, any>} */
    this.controls = {};
    root.querySelectorAll("[class]").forEach((e) => { this.controls[e.classList[0].slice(3)] = e; });
    this.listen();
    this.receive();
  }

  listen() {
    const c = this.controls;
    const ended = new AbortController();
    const { signal } = ended;
    const on = (target, kind, act, options = {}) => target.addEventListener(kind, act, { signal, ...options });
    for (const key of ["study", "run0", "run1"]) on(c[key], "change", () => this.choose());
    for (const key of ["scale", "logEpochs", "theory", "plane", "margins"]) {
      on(c[key], "change", () => this.set({ [key]: c[key].type === "checkbox" ? c[key].checked : c[key].value }));
    }
    [0, 1, 2].forEach((i) => on(c[`corner${i}`], "change", () => { // a class that is taken swaps places
      const [k, was] = [Number(c[`corner${i}`].value), this.state.corners[i]];
      this.set({ corners: this.state.corners.map((own, j) => (j === i ? k : own === k ? was : own)) });
    }));
    on(c.epoch, "input", () => this.go(Math.round(Number(c.epoch.value))));
    const clicks = {
      reload: () => this.choose(1), play: () => this.play(), reset: () => this.reset(), png: () => this.save("png"),
      svg: () => this.save("svg"), help: () => { c.keys.hidden = !c.keys.hidden; },
    };
    for (const [key, act] of Object.entries(clicks)) on(c[key], "click", act);
    c.metrics.id = `nc-metrics-${Math.random()}`;
    c.metric.setAttribute("list", c.metrics.id);
    on(c.metric, "focus", () => { c.metric.value = ""; });
    on(c.metric, "blur", () => { c.metric.value = this.state.metric; });
    on(c.metric, "change", () => this.pickMetric());
    // before the host, which would move between cells: Notebook 7 takes arrow keys while the page captures them
    on(window, "keydown", (event) => this.root.contains(event.target) && this.key(event), { capture: true });
    on(c.stage, "pointerdown", (event) => this.down(event));
    on(c.stage, "pointermove", (event) => this.move(event));
    on(c.stage, "pointerup", (event) => this.up(event));
    on(c.stage, "pointerleave", () => this.hover(undefined, 0, 0));
    on(c.stage, "dblclick", () => this.reset());
    on(c.stage, "wheel", (event) => this.wheel(event), { passive: false });
    const sizes = new ResizeObserver(() => this.restyle()); // also once it is on the page, and has a style
    const themes = new MutationObserver(() => isDark() === this.dark || this.restyle());
    sizes.observe(c.stage);
    for (const target of [document.body, document.documentElement]) themes.observe(target, { attributes: true });
    on(matchMedia("(prefers-color-scheme: dark)"), "change", () => this.restyle());
    const receive = () => this.receive();
    this.model.on("change:shown", receive);
    this.end = () => {
      this.model.off("change:shown", receive);
      ended.abort();
      sizes.disconnect();
      themes.disconnect();
      this.state.playing = false;
    };
  }

  receive() {
    const { state, controls: c, shown: before } = this;
    const shown = this.model.get("shown");
    const epoch = before?.study === shown.study ? this.scene.epoch : Infinity;
    this.shown = shown;
    this.runs = shown.runs.map(readRun);
    // a plane's classes are in every run
    const least = this.runs.filter((run) => run.classes).sort((a, b) => a.K - b.K)[0] ?? { K: 0, classes: [] };
    clearTimeout(this.waiting);
    this.root.classList.remove("nc-busy");
    this.say([shown.message, ...new Set(this.runs.flatMap((run) => run.problems))].filter(Boolean).join("\n"));
    if (!titlesOf(this.runs).includes(state.metric)) state.metric = "";
    if (before?.study !== shown.study || Math.max(...state.corners) >= least.K) {
      Object.assign(state, { corners: [0, 1, 2], chosen: new Set(), labels: [], span: null, hover: null });
    }
    c.plane.options[2].disabled = least.K < 3;
    if (least.K < 3 && state.plane === "three") state.plane = "circle";
    this.offerChoices(least.classes);
    const views = viewsOf(this.runs).map(({ kind, at }) => (
      el("div", { className: `nc-view nc-view-${kind}`, style: { gridArea: `${kind}${at}` } })));
    c.row.replaceChildren(...views.slice(0, 5));
    c.stage.replaceChildren(c.canvas, c.row, ...views.slice(5));
    c.stage.dataset.runs = String(this.runs.length);
    this.restyle();
    state.at = place(this.scene.epochs, epoch)[0];
    c.epoch.max = String(this.scene.epochs.length - 1);
    c.play.disabled = c.epoch.disabled = this.scene.epochs.length < 2;
    this.details();
  }

  offerChoices(classes) {
    const { controls: c, shown, state } = this;
    const runs = (shown.catalog[shown.study] ?? []).map(([label, run, seed]) => [label, `${run}/${seed}`]);
    const [first, second] = shown.chosen.map((which) => which.join("/"));
    offer(c.study, [...new Set([...Object.keys(shown.catalog), shown.study])].map((text) => [text, text]), shown.study);
    offer(c.run0, runs, first ?? "");
    offer(c.run1, [["none", ""], ...runs], second ?? "");
    [0, 1, 2].forEach((i) => offer(c[`corner${i}`], classes.map((text, k) => [text, k]), state.corners[i]));
    c.metrics.replaceChildren(...titlesOf(this.runs).map((text) => el("option", { value: text })));
    c.metric.value = state.metric;
    c.theory.disabled = this.runs.every(({ theory }) => !Object.keys(theory).length);
  }

  /** Ask for what the controls say; everything stays as it is until all of it is there. */
  choose(again = 0) {
    const { controls: c, shown } = this;
    const study = c.study.value;
    const chosen = study === shown.study ? [c.run0.value, c.run1.value] : []; // of another study its first runs
    const runs = chosen.filter(Boolean).map((which) => which.split("/")).map(([run, seed]) => [run, Number(seed)]);
    this.root.classList.add("nc-busy");
    this.waiting = setTimeout(() => this.say("No answer yet: is the kernel running?"), 8000);
    this.model.set("choice", { study, runs, read: shown.read + again });
    this.model.save_changes();
  }

  /** Read the style sheet: colors, and where the views lie. */
  restyle() {
    const { root, controls: { stage }, shown: { files } } = this;
    this.dark = isDark();
    root.classList.toggle("nc-dark", this.dark);
    const style = getComputedStyle(root);
    const color = (what) => [what, style.getPropertyValue(`--nc-${what}`).trim()];
    const theme = Object.fromEntries(["ink", "grey", "faint", "paper", "chosen"].map(color));
    const pixels = (what) => [what, new Uint32Array(bytesOf(files[what]).slice().buffer)];
    const maps = Object.fromEntries(this.runs.length ? ["cosine", "angle"].map(pixels) : []);
    this.scene = new Scene(this.runs, this.state, theme, maps, () => el("canvas"));
    const outer = stage.getBoundingClientRect();
    const boxOf = ({ left, top, width: w, height: h }) => ({ x: left - outer.left, y: top - outer.top, w, h });
    const boxes = [...stage.querySelectorAll(".nc-view")].map((view) => boxOf(view.getBoundingClientRect()));
    this.views = viewsOf(this.runs).map((view, i) => ({ ...view, box: boxes[i] }));
    this.sheet = boxOf(outer);
    this.redraw();
  }

  say(text) { this.controls.message.textContent = text; }

  set(changes) {
    Object.assign(this.state, changes);
    this.redraw();
  }

  /** Show the metric with all of the words that were typed, the one of the shortest name. */
  pickMetric() {
    const words = this.controls.metric.value.toLowerCase().split(/\s+/);
    const all = titlesOf(this.runs).filter((title) => words.every((word) => title.toLowerCase().includes(word)));
    const [metric] = all.sort((a, b) => a.length - b.length);
    if (metric) this.set({ metric });
    else this.say(`No metric is called ${words.join(" ")}.`);
    this.controls.metric.blur();
  }

  redraw() { this.pending ||= requestAnimationFrame((now) => this.frame(now)); }

  frame(now) {
    const { state, controls: c, scene, root } = this;
    this.pending = 0;
    if (!this.sheet.w) return; // not on the page yet
    if (state.playing) {
      const last = scene.epochs.length - 1;
      const passed = Math.min(Math.max(now - this.before, 0), 100); // a frame's time may lie before the key's
      state.at = Math.min(last, state.at + (passed * last) / SECONDS_OF_PLAY / 1000);
      this.before = now;
      state.playing = state.at < last;
      this.redraw();
    }
    this.paint(c.canvas, globalThis.devicePixelRatio || 1);
    for (const key of ["scale", "plane", "margins"]) c[key].value = state[key];
    const hidden = state.plane !== "three";
    state.corners.forEach((k, i) => Object.assign(c[`corner${i}`], { value: String(k), hidden }));
    c.theory.checked = state.theory;
    c.play.textContent = state.playing ? "⏸" : "▶";
    c.epoch.value = String(state.at);
    c.readout.textContent = `epoch ${Number(scene.epoch.toFixed(1))}`;
    const runs = this.runs.map((run) => run.label).join(" | ");
    Object.assign(root.dataset, { frames: Number(root.dataset.frames ?? 0) + 1, epoch: String(scene.epoch), runs });
    root.ariaLabel = `${runs} at epoch ${scene.epoch}`;
    if (state.at % 1 === 0 && this.drawnAt !== state.at) this.details();
    this.drawnAt = state.at;
  }

  /** Draw all views. @returns {CanvasPen} */
  paint(canvas, ratio) {
    const context = sized(canvas, Math.round(this.sheet.w * ratio), Math.round(this.sheet.h * ratio)).getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const pen = new CanvasPen(context);
    this.scene.draw(pen, this.views, this.sheet);
    return pen;
  }

  go(at) { this.set({ playing: false, at: Math.min(Math.max(at, 0), this.scene.epochs.length - 1) }); }

  goTo(epoch) {
    const away = this.scene.epochs.map((e) => Math.abs(e - epoch));
    this.go(away.indexOf(Math.min(...away)));
  }

  play() {
    const { state } = this;
    const last = this.scene.epochs.length - 1;
    this.before = performance.now();
    if (state.playing) this.go(Math.round(state.at));
    else this.set({ playing: last > 0, at: state.at >= last ? 0 : state.at });
  }

  reset() { this.set({ turn: [0, 0], zoom: 1, pan: [0, 0], span: null }); }

  /** Zoom planes about a place in them, as shares of their width from the middle. */
  zoom(factor, x = 0, y = 0) {
    const { pan, zoom } = this.state;
    this.set({ zoom: zoom * factor, pan: [x - factor * (x - pan[0]), y - factor * (y - pan[1])] });
  }

  /** Save the view as PNG, twice as fine, or as SVG. */
  async save(kind) {
    const canvas = el("canvas");
    const svg = new SvgPen(this.paint(canvas, 2));
    this.scene.draw(svg, this.views, this.sheet);
    const blob = kind === "png" ? await new Promise((done) => canvas.toBlob(done))
      : new Blob([svg.file(this.sheet)], { type: "image/svg+xml" });
    const href = URL.createObjectURL(blob);
    el("a", { href, download: `${this.shown.study}-epoch${this.scene.epoch}.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  }

  key(event) {
    const { target, key, shiftKey } = event;
    const { state, controls: c } = this;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();
    if (target.tagName === "SELECT" || target === c.metric) return;
    if (key === " " && ["BUTTON", "INPUT"].includes(target.tagName) && target !== c.epoch) return;
    const now = Math.round(state.at);
    const turn = (x, y) => this.set({ turn: [state.turn[0] + (x * Math.PI) / 24, state.turn[1] + (y * Math.PI) / 24] });
    const pan = (x, y) => this.set({ pan: [state.pan[0] + 0.05 * x, state.pan[1] + 0.05 * y] });
    const step = (by, x = 0, y = 0) => () => (shiftKey && (x || y) ? turn(x, y) : this.go(now + by));
    const act = {
      ArrowLeft: step(-1, -1, 0), ArrowRight: step(1, 1, 0), ArrowUp: step(1, 0, 1), ArrowDown: step(-1, 0, -1),
      PageUp: step(5), PageDown: step(-5), Home: step(-Infinity), End: step(Infinity),
      " ": () => this.play(), "+": () => this.zoom(1.2), "=": () => this.zoom(1.2), "-": () => this.zoom(1 / 1.2),
      0: () => this.reset(), a: () => pan(1, 0), d: () => pan(-1, 0), w: () => pan(0, 1), s: () => pan(0, -1),
      n: () => this.nextLabels(), Escape: () => this.select([], []), t: () => c.theory.click(),
      l: () => this.set({ scale: AFTER[state.scale] }), p: () => this.save("png"), v: () => this.save("svg"),
    }[key.length === 1 ? key.toLowerCase() : key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  /** Where the pointer is in the stage, and on what. */
  at(event) {
    const { left, top } = this.controls.stage.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    return { x, y, hit: this.scene.hits.find(({ box }) => inside(box, x, y)) };
  }

  down(event) {
    const { x, y, hit } = this.at(event);
    this.root.focus({ preventScroll: true });
    if (!hit) return;
    this.controls.stage.setPointerCapture(event.pointerId);
    const how = event.shiftKey ? "select" : event.altKey || event.button === 1 ? "pan" : "turn";
    this.dragging = { hit, how, x, y, moved: false, brush: null, turn: this.state.turn, pan: this.state.pan };
    if (hit.kind === "metrics") this.goTo(epochAt(hit, x));
  }

  move(event) {
    const { x, y, hit } = this.at(event);
    const drag = this.dragging;
    if (!drag) return this.hover(hit, x, y);
    const [dx, dy] = [x - drag.x, y - drag.y];
    const { w } = drag.hit.box;
    drag.moved ||= Math.hypot(dx, dy) > 3;
    if (drag.hit.kind === "metrics") return this.goTo(epochAt(drag.hit, x));
    if (drag.hit.kind !== "plane" || !drag.moved) return undefined;
    if (drag.how === "turn") return this.set({ turn: [drag.turn[0] + dx / 120, drag.turn[1] + dy / 120] });
    if (drag.how === "pan") return this.set({ pan: [drag.pan[0] + dx / w, drag.pan[1] + dy / w] });
    const { brush, stage } = this.controls;
    const box = { x: Math.min(x, drag.x), y: Math.min(y, drag.y), w: Math.abs(dx), h: Math.abs(dy) };
    Object.assign(brush.style, px({ left: box.x, top: box.y + stage.offsetTop, width: box.w, height: box.h }));
    drag.brush = box;
    brush.hidden = false;
    return undefined;
  }

  up(event) {
    const { x, y } = this.at(event);
    const { hit = null, moved = false, brush = null } = this.dragging ?? {};
    this.dragging = null;
    this.controls.brush.hidden = true;
    if (hit?.kind === "map" && !moved) this.selectLabels(cellAt(hit, x, y));
    if (hit?.kind !== "plane" || (moved && !brush)) return;
    const { labels, point } = nearest(hit, x, y);
    const { points } = hit.screen;
    if (brush) this.select(hit.members.filter((n) => inside(brush, points[2 * n], points[2 * n + 1])), []);
    else if (labels) this.selectLabels(labels);
    else this.select(point === undefined ? [] : [point], point === undefined ? [] : labelsOf(hit.run, point));
  }

  wheel(event) {
    const { x, y, hit } = this.at(event);
    if (!hit || !(event.ctrlKey || event.metaKey)) return; // a plain wheel scrolls the page
    event.preventDefault();
    const { box, kind, across } = hit;
    const [first, last] = this.scene.span;
    const factor = Math.exp(-event.deltaY / 300);
    if (kind === "plane") this.zoom(factor, (x - box.x) / box.w - 0.5, (y - box.y - box.h / 2) / box.w);
    if (kind !== "metrics") return;
    const share = (x - box.x) / box.w;
    const ends = [share - share / factor, share + (1 - share) / factor].map((at) => valueOn(across, at));
    const [low, high] = ends.map((epoch) => Math.min(Math.max(epoch, first), last));
    if (high - low >= 1) this.set({ span: [low, high] });
  }

  hover(hit, x, y) {
    const { tip, stage } = this.controls;
    const found = hit?.kind === "plane" ? nearest(hit, x, y) : {};
    const lines = hit ? hit.words(x, y) : [];
    tip.hidden = !lines.length;
    const image = found.point === undefined ? [] : this.imageOf(hit.run, found.point, 64);
    tip.replaceChildren(...image, ...lines.map((text) => el("div", { textContent: text })));
    const [left, top] = [stage.clientWidth - tip.offsetWidth - 4, stage.clientHeight - tip.offsetHeight];
    Object.assign(tip.style, px({ left: Math.min(x + 14, left), top: stage.offsetTop + Math.min(y + 14, top) }));
    const point = found.point ?? null;
    if (point !== this.state.hover) this.set({ hover: point });
  }

  /** A training image, cut from the file of all of them; none without the file. */
  imageOf(run, n, side) {
    if (!run.images) return [];
    const { file, columns, width, height } = run.images;
    this.urls[file] ??= URL.createObjectURL(new Blob([this.shown.files[file]]));
    const tall = (side * height) / width;
    const look = {
      backgroundImage: `url(${this.urls[file]})`, backgroundSize: `${columns * side}px`,
      backgroundPosition: `${-(n % columns) * side}px ${-Math.floor(n / columns) * tall}px`,
    };
    return [el("i", { className: "nc-image", style: { ...px({ width: side, height: tall }), ...look } })];
  }

  /** Choose a label set: its features, or for a pair that the data have not, those of both classes. */
  selectLabels(labels) {
    const run = this.scene.known[0];
    const of = (labels_) => run.members[run.setLists.findIndex((set) => same(set, labels_))] ?? [];
    const found = of(labels);
    this.select(found.length ? found : labels.flatMap((k) => of([k])), labels);
  }

  nextLabels() {
    const sets = this.scene.known[0]?.setLists;
    if (sets) this.selectLabels(sets[(sets.findIndex((set) => same(set, this.state.labels)) + 1) % sets.length]);
  }

  select(points, labels) {
    this.set({ chosen: new Set(points), labels });
    this.details();
  }

  /** The chosen label set in numbers, and the images of the chosen features. */
  details() {
    const { controls: { details }, scene, state: { chosen, labels } } = this;
    const run = scene.known[0];
    details.replaceChildren();
    if (!run || !(chosen.size || labels.length)) return;
    const runs = scene.known.filter(({ K }) => Math.max(...labels) < K);
    const columns = runs.map((of) => numbersOf(of, scene.placeOf(of)[0], labels));
    const line = (kind, texts) => el("tr", {}, ...texts.map((textContent) => el(kind, { textContent })));
    const names = [...new Set(columns.flatMap(Object.keys))];
    const rows = names.map((what) => line("td", [what, ...columns.map((column) => column[what] ?? "")]));
    const table = el("table", {}, line("th", [nameOf(run, labels), ...runs.map(({ label }) => label)]), ...rows);
    const listed = [...chosen].slice(0, LISTED_IMAGES).map((n) => {
      const title = nameOf(run, labelsOf(run, n));
      const caption = el("figcaption", { textContent: shortened(title, 9) });
      return el("figure", { title }, ...this.imageOf(run, n, 44), caption);
    });
    const first = chosen.size > LISTED_IMAGES ? `, the first ${LISTED_IMAGES}:` : "";
    const missing = run.images ? "" : "; their images are not there (run stage 01_dataset)";
    const count = el("p", { textContent: `${chosen.size} features chosen${first}${missing}` });
    details.replaceChildren(...(labels.length ? [table] : []), el("div", { className: "nc-chosen" }, count, ...listed));
  }
}

const epochAt = ({ across, box }, x) => valueOn(across, (x - box.x) / box.w);

/** The classes of a map's cell; one on the diagonal. */
function cellAt({ box, run }, x, y) {
  const at = [(y - box.y) / box.h, (x - box.x) / box.w].map((share) => Math.min(Math.floor(share * run.K), run.K - 1));
  return [...new Set(at)].sort((a, b) => a - b);
}

/** What is nearest to a place in a plane: labels of a class or pair mean, or a feature; nothing if all are far. */
function nearest({ screen, members, classes, run }, x, y) {
  let [found, least] = [/** @type {{labels?: number[], point?: number}} */ ({}), 10];
  const look = (places, i, what, farther = 0) => {
    const distance = Math.hypot(places[2 * i] - x, places[2 * i + 1] - y) + farther;
    if (distance < least) [found, least] = [what, distance];
  };
  for (const n of members) look(screen.points, n, { point: n }, 2);
  for (const k of classes) look(screen.means, k, { labels: [k] });
  run.pairs.forEach((labels, p) => labels.every((k) => classes.includes(k)) && look(screen.pairMeans, p, { labels }));
  return found;
}

/** What is known of a label set at a checkpoint: name of each quantity -> its value in words. */
export function numbersOf(run, e, labels) {
  const { K, S, factNames } = run;
  const at = run.setLists.findIndex((set) => same(set, labels));
  const facts = at < 0 ? [0] : [...row(run.facts, e * S + at, factNames.length)];
  const told = facts.map((value, f) => [factNames[f], short(value)]).filter((_, f) => Number.isFinite(facts[f]));
  const cell = (e * K + labels[0]) * K + labels[labels.length - 1];
  const cosines = [run.gram_features[cell], run.gram_weight[cell], -1 / (K - 1)].map(short);
  const more = labels.length === 2 ? [["cosine of means | rows | ETF", cosines.join(" | ")]] : [];
  return Object.fromEntries([...told, ...more]);
}

/** A page without a kernel: all runs of a study lie in the book. */
export async function openBook(root, text) {
  const zipped = await fetch(`data:;base64,${text.trim()}`);
  const stream = zipped.body.pipeThrough(new DecompressionStream("gzip"));
  const { header: start, arrays: files } = unpack(await new Response(stream).arrayBuffer());
  const runsOf = (chosen) => chosen.map((which) => files[which.join("/")]);
  const model = {
    shown: { ...start, files, runs: runsOf(start.chosen) },
    get: () => model.shown,
    set: (_, { study, runs }) => { model.shown = { ...model.shown, study, chosen: runs, runs: runsOf(runs) }; },
    save_changes: () => view.receive(),
    on() {},
    off() {},
  };
  const view = new View(model, root);
}

export default {
  /** @param {{model: any, el: HTMLElement}} given */
  render({ model, el: root }) {
    const view = new View(model, root.appendChild(document.createElement("div")));
    return () => view.end();
  },
};
