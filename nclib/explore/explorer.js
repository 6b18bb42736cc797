// @ts-check
/**
 * The explorer in the browser. The kernel sends each run's arrays once; everything else happens here: planes,
 * interpolation between checkpoints, drawing on one canvas, and what hovering, clicking and keys do.
 *
 * Texts from files (names of classes, runs and studies, problems) become text nodes or canvas text, never HTML.
 *
 * @typedef {{x: number, y: number, w: number, h: number}} Box
 * @typedef {{metric: string, labels: number|null, split: string, title: string, log: boolean, mayBeLog: boolean,
 *            floor: number|null, ceiling: number|null}} Series
 * @typedef {{title: string, lines: {metric: string, labels: number|null, split: string, name: string}[]}} Panel
 * @typedef {{run: string, seed: number, label: string, color: string, problems: string[], classes?: string[],
 *            theory: Object<string, number>, series?: Series[], arrays: Object<string, [string, number[], number]>,
 *            E: number, K: number, r: number, N: number, M: number, multi: boolean, sets_: number[][],
 *            labels_: number[][], cache: Map<string, any>, [array: string]: any}} Run
 * @typedef {{axes: Float64Array[], origin: Float64Array, size: number}} Frame
 * @typedef {CanvasRenderingContext2D | SvgPen} Pen
 */

const NO_LABEL = 65535;
const NAMED_CLASSES = 20; // more names would hide the points
const LABELED_CELLS = 24; // more rows of a map are too narrow for names
const COLORED_SETS = 12; // more label sets in one plane, and only those of one label keep a color
const ROUND_DOTS = 3000; // more points are drawn as pixels
const ZERO = 1e-10; // metrics are float64: those that vanish for an exact ETF come out at about 4e-16
const SECONDS_OF_PLAY = 9;
const LISTED_IMAGES = 36;
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
// Tol's "muted" scheme without its gray, and a slate blue to make ten
const CLASS_COLORS = "#332288 #88ccee #44aa99 #117733 #999933 #ddcc77 #cc6677 #882255 #aa4499 #6f7fa8".split(" ");
const DASHES = [[], [5, 2], [1.5, 2], [5, 1.5, 1.5, 1.5]];
const THEMES = {
  light: { ink: "#222222", grey: "#6b6b6b", faint: "#dddddd", paper: "#ffffff", chosen: "#cc3311" },
  dark: { ink: "#e8e8e8", grey: "#a5a5a5", faint: "#444444", paper: "#111111", chosen: "#ff7755" },
};
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int16: Int16Array, int32: Int32Array, uint16: Uint16Array,
  uint8: Uint8Array,
};

// Data ---------------------------------------------------------------------------------------------------------------

/**
 * Header and arrays of what `nclib.explore.payload.pack` wrote.
 * @param {DataView|ArrayBuffer|Uint8Array} data
 */
export function unpack(data) {
  const given = ArrayBuffer.isView(data) ? data : new Uint8Array(data);
  let bytes = new Uint8Array(given.buffer, given.byteOffset, given.byteLength);
  if (bytes.byteOffset % 8) bytes = bytes.slice();
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const start = bytes.byteOffset + 4 + length;
  const arrays = {};
  for (const [name, [type, shape, offset]] of Object.entries(header.arrays)) {
    arrays[name] = new ARRAYS[type](bytes.buffer, start + offset, shape.reduce((a, b) => a * b, 1));
  }
  return { header, arrays };
}

/**
 * A run with its arrays and sizes: E checkpoints, K classes, r dimensions, N features, M labels at most.
 * @returns {Run}
 */
export function readRun(data) {
  const { header, arrays } = unpack(data);
  const run = { ...header, ...arrays, shapes: header.arrays, cache: new Map(), E: 0, K: 0, N: 0 };
  if (run.classes) {
    [run.E, run.N, run.r] = run.shapes.points[1];
    run.K = run.classes.length;
    run.M = run.shapes.labels[1][1];
    run.labels_ = rowsOfLabels(run.labels, run.M);
    run.sets_ = rowsOfLabels(run.sets, run.shapes.sets[1][1]);
    run.multi = run.sets_.some((set) => set.length > 1);
    run.pairs_ = Array.from(run.pairs, (place) => run.sets_[place]);
  }
  return run;
}

function rowsOfLabels(slots, width) {
  const rows = [];
  for (let i = 0; i < slots.length; i += width) {
    rows.push(Array.from(slots.subarray(i, i + width)).filter((k) => k !== NO_LABEL));
  }
  return rows;
}

/** All epochs at which a run has a checkpoint or a metric, ascending; 0 alone if none has. */
export function unionOfEpochs(runs) {
  const found = new Set(runs.flatMap((run) => Array.from(run.epochs ?? run.metric_epochs ?? [])));
  return found.size ? [...found].sort((a, b) => a - b) : [0];
}

/**
 * Where an epoch lies among ascending ones: the last one up to it, and the share of the way to the next.
 * @returns {[number, number]}
 */
export function place(epochs, epoch) {
  let e = 0;
  while (e + 1 < epochs.length && epochs[e + 1] <= epoch) e += 1;
  if (e + 1 >= epochs.length || epoch <= epochs[e]) return [e, 0];
  return [e, (epoch - epochs[e]) / (epochs[e + 1] - epochs[e])];
}

/** Values of an array with the checkpoints first, between two of them. */
export function between(array, size, [e, share]) {
  const first = array.subarray(e * size, (e + 1) * size);
  if (!share) return first;
  const next = array.subarray((e + 1) * size, (e + 2) * size);
  const found = new Float32Array(size);
  for (let i = 0; i < size; i += 1) found[i] = first[i] + share * (next[i] - first[i]);
  return found;
}

const name = (run, labels) => labels.map((k) => run.classes[k]).join(" & ");

// Planes -------------------------------------------------------------------------------------------------------------

const dot = (a, b) => {
  let sum = 0;
  for (let j = 0; j < a.length; j += 1) sum += a[j] * b[j];
  return sum;
};

/** What a vector has outside the span of orthonormal ones, as a unit vector; null if that is nothing. */
function outside(vector, axes) {
  const rest = Float64Array.from(vector);
  const before = Math.sqrt(dot(rest, rest));
  for (const axis of axes) {
    const along = dot(rest, axis);
    for (let j = 0; j < rest.length; j += 1) rest[j] -= along * axis[j];
  }
  const size = Math.sqrt(dot(rest, rest));
  return size > 1e-6 * before && size > 1e-12 ? rest.map((x) => x / size) : null;
}

/** The orthonormal vectors nearest to two others (polar factor). */
function orthonormal(p, q) {
  const [a, b, c] = [dot(p, p), dot(p, q), dot(q, q)];
  const root = Math.sqrt(Math.max(a * c - b * b, 0));
  if (root <= 1e-9 * (a + c)) return [outside(p, []), null];
  const scale = 1 / (root * Math.sqrt(a + c + 2 * root)); // of (G + root)^-1 G^..., the inverse square root of [[a, b], [b, c]]
  const [d, o, f] = [(c + root) * scale, -b * scale, (a + root) * scale];
  return [p.map((x, j) => d * x + o * q[j]), q.map((x, j) => o * p[j] + f * x)];
}

/**
 * The plane of a checkpoint and the axis that points out of it, in the run's coordinates.
 * @param {Run} run
 * @param {number} e
 * @param {string|number[]} plane "circle", "principal", or three classes
 * @returns {Frame}
 */
export function frameOf(run, e, plane) {
  const { K, r } = run;
  const mean = (k) => Float64Array.from(run.means.subarray((e * K + k) * r, (e * K + k + 1) * r));
  const all = Array.from({ length: K }, (_, k) => mean(k));
  const size = Math.sqrt(all.reduce((sum, m) => sum + dot(m, m), 0) / K) || 1e-30;
  const origin = new Float64Array(r);
  const coordinate = (j) => Float64Array.from({ length: r }, (_, i) => Number(i === j));
  const wave = (turns, part) => {
    const sum = new Float64Array(r);
    all.forEach((m, k) => {
      const weight = part(turns * (Math.PI / 2 - (2 * Math.PI * k) / K));
      for (let j = 0; j < r; j += 1) sum[j] += weight * m[j];
    });
    return sum;
  };
  /** @type {(Float64Array|null)[]} */
  let wanted;
  if (plane === "principal") {
    wanted = [coordinate(0), coordinate(1)];
  } else if (plane === "circle") {
    wanted = [...orthonormal(wave(1, Math.cos), wave(1, Math.sin)), wave(2, Math.cos)];
  } else {
    const corners = Array.from(plane, mean);
    for (let j = 0; j < r; j += 1) origin[j] = (corners[0][j] + corners[1][j] + corners[2][j]) / 3;
    const up = outside(corners[0].map((x, j) => x - origin[j]), []);
    const right = outside(corners[2].map((x, j) => x - corners[1][j]), up ? [up] : []);
    wanted = [right, up, origin.map((x) => -x)];
  }
  const axes = [];
  const spare = [2, ...Array.from({ length: Math.max(r - K + 1, 0) }, (_, j) => K - 1 + j), 0, 1].filter((j) => j < r);
  for (const vector of [...wanted, ...spare.map(coordinate)]) {
    const axis = vector && axes.length < 3 ? outside(vector, axes) : null;
    if (axis) axes.push(axis);
  }
  while (axes.length < 3) axes.push(new Float64Array(r));
  return { axes, origin, size };
}

/** Rows of coordinates seen in a frame, three numbers each. */
function seen(rows, from, count, r, scale, frame, origin = frame.origin) {
  const found = new Float32Array(3 * count);
  const [u, v, w] = frame.axes;
  const at = frame.axes.map((axis) => dot(axis, origin) / frame.size);
  const unit = scale / frame.size;
  for (let i = 0, p = from; i < count; i += 1, p += r) {
    let [x, y, z] = [0, 0, 0];
    for (let j = 0; j < r; j += 1) {
      const value = rows[p + j];
      x += value * u[j];
      y += value * v[j];
      z += value * w[j];
    }
    found[3 * i] = x * unit - at[0];
    found[3 * i + 1] = y * unit - at[1];
    found[3 * i + 2] = z * unit - at[2];
  }
  return found;
}

/**
 * A checkpoint in a plane, in units of the class means' distance from their center; kept once it was computed.
 * `tips` are the ends of the classifier rows, `averages` the tag-wise averages C_2 (mu_i + mu_j) of the pairs.
 * @param {Run} run
 */
export function project(run, e, plane) {
  const key = `${e} ${plane}`;
  const kept = run.cache.get(key);
  if (kept) return kept;
  const { K, r, N } = run;
  const P = run.pairs.length;
  const frame = frameOf(run, e, plane);
  const nowhere = new Float64Array(r);
  const center = seen(nowhere, 0, 1, r, 1, frame);
  const rows = run.rows.subarray(e * K * r, (e + 1) * K * r);
  const length = Math.sqrt(dot(rows, rows) / K) || 1e-30;
  const tips = seen(rows, 0, K, r, frame.size / length, frame, nowhere).map((x, i) => x + center[i % 3]);
  const scale = P ? run.scales[e * run.shapes.scales[1][1] + 1] : 0;
  const sums = new Float64Array(P * r);
  run.pairs_.forEach(([i, j], p) => {
    for (let c = 0; c < r; c += 1) {
      const both = run.means[(e * K + i) * r + c] + run.means[(e * K + j) * r + c];
      sums[p * r + c] = scale * both + (2 * scale - 1) * run.origin[e * r + c];
    }
  });
  const found = {
    points: seen(run.points, e * N * r, N, r, run.point_scale[e], frame),
    means: seen(run.means, e * K * r, K, r, 1, frame),
    pairMeans: seen(run.pair_means, e * P * r, P, r, 1, frame),
    averages: seen(sums, 0, P, r, 1, frame),
    center,
    tips,
  };
  if (run.cache.size > 400) run.cache.clear();
  run.cache.set(key, found);
  return found;
}

/** What is seen between two checkpoints: both planes have one orientation, so positions move straight. */
export function projectBetween(run, [e, share], plane) {
  const first = project(run, e, plane);
  if (!share) return first;
  const next = project(run, e + 1, plane);
  return Object.fromEntries(
    Object.entries(first).map(([what, a]) => [what, a.map((x, i) => x + share * (next[what][i] - x))]),
  );
}

/** Turned about the vertical, then the horizontal axis, and seen from the front. */
export function turned(coordinates, [yaw, pitch]) {
  const count = coordinates.length / 3;
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  const found = new Float32Array(2 * count);
  for (let i = 0; i < count; i += 1) {
    const [x, y, z] = [coordinates[3 * i], coordinates[3 * i + 1], coordinates[3 * i + 2]];
    found[2 * i] = x * cy + z * sy;
    found[2 * i + 1] = y * cp - (z * cy - x * sy) * sp;
  }
  return found;
}

/** Half the width of a plane, in units of the class means' distance from their center. */
export const reach = (plane, K) => (plane === "circle" ? 1.6 * Math.sqrt(2 / Math.max(K - 1, 2)) : 1.4);

/** Where theory has the class means: corners of a simplex ETF, of which a plane shows a regular polygon. */
export function idealMeans(plane, classes, K) {
  const radius = plane === "circle" ? Math.sqrt(2 / (K - 1)) : Math.sqrt((2 * K) / (K - 1) / 3);
  const step = (2 * Math.PI) / classes.length;
  return classes.flatMap((_, i) => {
    const turn = plane === "circle" ? Math.PI / 2 - step * i : Math.PI / 2 + step * i;
    return [radius * Math.cos(turn), radius * Math.sin(turn), 0];
  });
}

// Colors, numbers and names --------------------------------------------------------------------------------------------

const hexToRgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const rgbToHex = (rgb) => `#${rgb.map((x) => Math.round(x).toString(16).padStart(2, "0")).join("")}`;

function luminance(hex) {
  const [r, g, b] = hexToRgb(hex).map((x) => (x <= 10 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** The color, or the nearest shade of it that has a contrast to the paper (WCAG 2 asks 4.5 of text). */
export function readable(color, paper, least = 4.5) {
  const towards = luminance(paper) > 0.5 ? 0 : 255;
  let rgb = hexToRgb(color);
  for (let i = 0; i < 60 && contrast(rgbToHex(rgb), paper) < least; i += 1) {
    rgb = rgb.map((x) => x + 0.06 * (towards - x));
  }
  return rgbToHex(rgb);
}

/** Colors of K classes: ten well apart, or for more a wheel of two lightnesses. */
export function classColor(k, K) {
  if (K <= CLASS_COLORS.length) return CLASS_COLORS[k];
  const [hue, light, a] = [(360 * k) / K, k % 2 ? 0.62 : 0.42, 0.62];
  const channel = (n) => {
    const at = (n + hue / 30) % 12;
    return 255 * (light - a * Math.min(light, 1 - light) * Math.max(-1, Math.min(at - 3, 9 - at, 1)));
  };
  return rgbToHex([channel(0), channel(8), channel(4)]);
}

/** A color between those of a list, for a share in [0, 1]. */
export function mapColor(colors, share) {
  const at = Math.min(Math.max(share, 0), 1) * (colors.length - 1);
  const low = Math.min(Math.floor(at), colors.length - 2);
  return colors[low].map((x, c) => x + (at - low) * (colors[low + 1][c] - x));
}

/** A color as a pixel of a canvas (little-endian). */
const pixelOf = ([r, g, b]) => ((255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;

/** A number in about three digits. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

/** At most `most` round numbers in a range. */
export function linearTicks(low, high, most = 5) {
  if (!(high > low)) return [low];
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + 1e-12; i += 1) ticks.push(i * step);
  return ticks.map((t) => Number(t.toPrecision(12)));
}

/** At least three round numbers in a range of positive ones: powers of ten if there are enough of them. */
export function logTicks(low, high, most = 6) {
  for (const steps of [[1], [1, 3], [1, 2, 5]]) {
    const ticks = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) {
      for (const step of steps) {
        const tick = Number(`${step}e${e}`);
        if (tick >= low * 0.9999 && tick <= high * 1.0001) ticks.push(tick);
      }
    }
    const every = Math.ceil(ticks.length / most);
    if (ticks.length > 2) return ticks.filter((_, i) => i % every === 0);
  }
  return linearTicks(low, high, 4).filter((t) => t > 0);
}

/** A name cut to fit a number of letters. */
export const shortened = (text, letters) => (text.length <= letters ? text : `${text.slice(0, Math.max(letters - 1, 1))}…`);

/** A text broken at blanks, and within words and paths that are too long. */
export function wrapped(text, letters) {
  const lines = [""];
  for (const word of text.split(/\s+/).flatMap((w) => w.match(new RegExp(`.{1,${letters}}`, "gu")) ?? [])) {
    const last = lines[lines.length - 1];
    if (last && last.length + word.length + 1 > letters) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines;
}

// Metrics ------------------------------------------------------------------------------------------------------------

export const seriesKey = ({ metric, labels, split }) => `${split} ${metric} ${labels ?? ""}`;

/** Name of a metric in the picker: that of the figures, and its key where two would read alike. */
export function metricNames(runs) {
  const names = new Map();
  for (const series of runs.flatMap((run) => run.series ?? [])) {
    const key = `${series.metric} ${series.labels ?? ""}`;
    if (!names.has(key)) names.set(key, series);
  }
  const titles = [...names.values()].map((series) => series.title);
  return new Map([...names].map(([key, { title, metric }]) => {
    const twice = titles.indexOf(title) !== titles.lastIndexOf(title);
    return [twice ? `${title} (${metric})` : title, key];
  }));
}

/**
 * The five panels of some runs; the last one shows the chosen metric, or the score.
 * @returns {Panel[]}
 */
export function panelsOf(runs, chosen) {
  const all = runs.flatMap((run) => run.series ?? []);
  const title = (metric, labels) => all.find((s) => s.metric === metric && s.labels === labels)?.title ?? metric;
  const line = (metric, labels = null, split = "train", label = "") => ({ metric, labels, split, name: label });
  const ratios = [...new Set(all.filter((s) => s.metric === "tag_wise_ratio").map((s) => s.labels))].sort();
  const score = ratios.length || all.some((s) => s.metric === "tag_wise_scale") ? "soft_iou" : "top1";
  const [metric, labels] = chosen ? chosen.split(" ") : [score, ""];
  const last = labels ? Number(labels) : null;
  return [
    { title: title("nc1", null), lines: [line("nc1")] },
    { title: "NC2", lines: [line("nc2_w_centered", null, "train", "classifier"), line("nc2_h_centered", null, "train", "means")] },
    { title: title("nc3_centered", null), lines: [line("nc3_centered")] },
    ratios.length
      ? {
          title: ratios.length > 1 ? "tag-wise ratio" : title("tag_wise_ratio", ratios[0]),
          lines: ratios.map((m) => line("tag_wise_ratio", m, "train", ratios.length > 1 ? `${m} labels` : "")),
        }
      : { title: title("nc4", null), lines: [line("nc4")] },
    { title: title(metric, last), lines: [line(metric, last, "train", "train"), line(metric, last, "test", "test")] },
  ];
}

/** One line of a run: its epochs and values, and what its series says of the axis. */
function valuesOf(run, line) {
  const at = (run.series ?? []).findIndex((s) => seriesKey(s) === seriesKey(line));
  if (at < 0) return null;
  const count = run.metric_epochs.length;
  return { epochs: run.metric_epochs, values: run.values.subarray(at * count, (at + 1) * count), series: run.series[at] };
}

/** The value at an epoch, on the straight line between two. */
function valueAt(line, epoch) {
  const [e, share] = place(line.epochs, epoch);
  return share ? line.values[e] + share * (line.values[e + 1] - line.values[e]) : line.values[e];
}

/**
 * The axis that the values of a panel ask for: as in the figures, unless another scale was chosen.
 * @param {number[]} values
 * @param {Series|undefined} series
 * @param {string} scale "figures", "log" or "linear"
 */
export function axisOf(values, series, scale) {
  const known = values.filter(Number.isFinite);
  const above = known.filter((x) => x > ZERO);
  const span = above.length ? Math.max(...above) / Math.min(...above) : 1;
  const log = scale === "log" ? series?.mayBeLog : scale === "figures" && series?.log && span > 10;
  if (log && above.length) {
    const decades = Math.log10(span) || 1;
    const hasZero = above.length < known.length;
    const least = Math.min(...above);
    const zero = hasZero ? least / 10 ** Math.max(0.15 * decades, 0.1) : null;
    const low = (zero ?? least) / 10 ** (0.04 * decades);
    return { log: true, low, high: Math.max(...above) * 10 ** (0.04 * decades), zero, least };
  }
  let [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  const margin = 0.06 * (high - low) || Math.abs(high) * 0.05 || 0.05;
  low = series?.floor ?? low - margin;
  const most = series?.ceiling ?? Infinity;
  high = high + margin > most ? most + 0.02 * (most - low) : high + margin;
  return { log: false, low, high, zero: null, least: low };
}

/** Where a value lies on an axis, from 0 to 1. */
export function onAxis(axis, value) {
  if (!axis.log) return (value - axis.low) / (axis.high - axis.low);
  const drawn = value > ZERO ? value : (axis.zero ?? axis.low);
  return Math.log(drawn / axis.low) / Math.log(axis.high / axis.low);
}

// Layout -------------------------------------------------------------------------------------------------------------

/**
 * The boxes of all panels for a width; at 1,130 pixels, one run is 510 high.
 * @returns {{height: number, metrics: Box[], planes: Box[], maps: {kind: string, run: number, box: Box}[],
 *            margins: Box, legend: Box}}
 */
export function layout(width, runs) {
  const gap = 14;
  const W = Math.max(width, 640);
  const wide = W >= 1500;
  const rowHeight = wide ? 190 : 152;
  const each = (W - 4 * gap) / 5;
  const metrics = Array.from({ length: 5 }, (_, i) => ({ x: i * (each + gap), y: 0, w: each, h: rowHeight }));
  const top = rowHeight + gap;
  const map = (kind, run, x, y, w, h) => ({ kind, run, box: { x, y, w, h } });
  const planes = [];
  const maps = [];
  let side; let left; let height;
  if (runs === 1) {
    side = Math.min(Math.max(0.3 * W, 300), wide ? 560 : 360);
    planes.push({ x: 0, y: top, w: side, h: side });
    const cell = Math.min(side * 0.55, (W - side - 260) / 2);
    [["means", 0, 0], ["classifier", 1, 0], ["etf", 0, 1], ["angles", 1, 1]].forEach(([kind, column, row]) => {
      maps.push(map(kind, 0, side + gap + column * (cell + gap), top + row * ((side + gap) / 2), cell, (side - gap) / 2));
    });
    left = side + 3 * gap + 2 * cell;
    height = top + side;
  } else if (wide) {
    side = Math.min(0.24 * W, 460);
    [0, 1].forEach((i) => planes.push({ x: i * (side + gap), y: top, w: side, h: side }));
    const start = 2 * (side + gap);
    const cell = Math.min((W - start - 280) / 4 - gap, side / 2);
    [["means", 0], ["classifier", 1], ["etf", 2], ["angles", 3]].forEach(([kind, column]) => {
      for (const run of kind === "etf" ? [0] : [0, 1]) {
        maps.push(map(kind, run, start + column * (cell + gap), top + run * ((side + gap) / 2), cell, (side - gap) / 2));
      }
    });
    left = start + 4 * (cell + gap);
    height = top + side;
  } else {
    side = Math.min(Math.max((W - 290) / 2, 240), 400);
    [0, 1].forEach((i) => planes.push({ x: i * (side + gap), y: top, w: side, h: side }));
    const cell = (W - 6 * gap) / 7;
    const order = [["means", 0], ["classifier", 0], ["etf", 0], ["classifier", 1], ["means", 1], ["angles", 0], ["angles", 1]];
    order.forEach(([kind, run], i) => {
      maps.push(map(kind, run, i * (cell + gap), top + side + gap, cell, cell + 16));
    });
    left = 2 * (side + gap);
    height = top + side + gap + cell + 16;
  }
  const legend = 126;
  return {
    height, metrics, planes, maps,
    margins: { x: left, y: top, w: W - left, h: side - legend },
    legend: { x: left, y: top + side - legend + 16, w: W - left, h: legend - 16 },
  };
}

// Drawing ------------------------------------------------------------------------------------------------------------

const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

/** The part of a canvas context that the explorer draws with, written as SVG. */
export class SvgPen {
  constructor(width, height) {
    Object.assign(this, { width, height, parts: [], stack: [], path: "", clips: 0, dash: [], groups: 0 });
    Object.assign(this, { fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, globalAlpha: 1, font: "10px x" });
    Object.assign(this, { textAlign: "left", textBaseline: "alphabetic", lineCap: "butt", lineJoin: "round" });
  }

  get svg() {
    const box = `width="${this.width}" height="${this.height}" viewBox="0 0 ${this.width} ${this.height}"`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${box}>${this.parts.join("")}</svg>`;
  }

  save() {
    const { fillStyle, strokeStyle, lineWidth, globalAlpha, font, textAlign, textBaseline, dash, groups } = this;
    this.stack.push({ fillStyle, strokeStyle, lineWidth, globalAlpha, font, textAlign, textBaseline, dash, groups });
    this.groups = 0;
  }

  restore() {
    this.parts.push("</g>".repeat(this.groups));
    Object.assign(this, this.stack.pop());
  }

  group(attributes) {
    this.parts.push(`<g ${attributes}>`);
    this.groups += 1;
  }

  translate(x, y) { this.group(`transform="translate(${x.toFixed(1)} ${y.toFixed(1)})"`); }
  rotate(angle) { this.group(`transform="rotate(${((angle * 180) / Math.PI).toFixed(1)})"`); }

  clip() {
    this.clips += 1;
    this.parts.push(`<clipPath id="clip${this.clips}"><path d="${this.path}"/></clipPath>`);
    this.group(`clip-path="url(#clip${this.clips})"`);
  }

  setLineDash(dash) { this.dash = dash; }
  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${x.toFixed(1)} ${y.toFixed(1)}`; }
  lineTo(x, y) { this.path += `${this.path ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`; }
  closePath() { this.path += "Z"; }
  rect(x, y, w, h) { this.path += `M${x.toFixed(1)} ${y.toFixed(1)}h${w.toFixed(1)}v${h.toFixed(1)}h${(-w).toFixed(1)}z`; }

  arc(x, y, r) {
    const [d, n] = [(2 * r).toFixed(1), (-2 * r).toFixed(1)];
    this.path += `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${d} 0a${r} ${r} 0 1 0 ${n} 0z`;
  }

  fill() { this.add(`<path d="${this.path}" fill="${this.fillStyle}" fill-opacity="${this.globalAlpha}"/>`); }
  stroke() { this.add(`<path d="${this.path}" fill="none" ${this.line()}/>`); }

  fillRect(x, y, w, h) {
    const box = `x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${w.toFixed(1)}" height="${h.toFixed(1)}"`;
    this.add(`<rect ${box} fill="${this.fillStyle}" fill-opacity="${this.globalAlpha}"/>`);
  }

  fillText(text, x, y) { this.text(text, x, y, `fill="${this.fillStyle}" fill-opacity="${this.globalAlpha}"`); }

  strokeText(text, x, y) { this.text(text, x, y, `fill="none" ${this.line()}`); }

  drawImage(image, x, y, w, h) {
    const box = `x="${x}" y="${y}" width="${w}" height="${h}" preserveAspectRatio="none" style="image-rendering:pixelated"`;
    this.add(`<image ${box} href="${image.toDataURL()}"/>`);
  }

  measureText(text) { return { width: 0.56 * parseFloat(this.font.match(/[\d.]+(?=px)/)?.[0] ?? "10") * text.length }; }

  line() {
    const dash = this.dash.length ? ` stroke-dasharray="${this.dash.join(" ")}"` : "";
    return `stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}" stroke-opacity="${this.globalAlpha}"`
      + ` stroke-linecap="${this.lineCap}" stroke-linejoin="${this.lineJoin}"${dash}`;
  }

  text(text, x, y, look) {
    const anchor = { left: "start", center: "middle", right: "end" }[this.textAlign];
    const baseline = { alphabetic: "auto", middle: "central", top: "hanging" }[this.textBaseline];
    const place_ = `x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" dominant-baseline="${baseline}"`;
    this.add(`<text ${place_} style="font:${escaped(this.font)}" ${look}>${escaped(text)}</text>`);
  }

  add(element) { this.parts.push(element); }
}

/** @param {Pen} pen */
function write(pen, text, x, y, { color = "#000", size = 11, align = "left", baseline = "alphabetic", weight = "", halo = "" } = {}) {
  pen.font = `${weight ? `${weight} ` : ""}${size}px ${FONT}`;
  pen.textAlign = /** @type {CanvasTextAlign} */ (align);
  pen.textBaseline = /** @type {CanvasTextBaseline} */ (baseline);
  if (halo) {
    pen.strokeStyle = halo;
    pen.lineWidth = 3;
    pen.strokeText(text, x, y);
  }
  pen.fillStyle = color;
  pen.fillText(text, x, y);
}

/** The text cut to fit a width. */
function fitted(pen, text, width, size, weight = "") {
  pen.font = `${weight ? `${weight} ` : ""}${size}px ${FONT}`;
  if (pen.measureText(text).width <= width) return text;
  let letters = Math.max(2, Math.floor(text.length * (width / pen.measureText(text).width)));
  while (letters > 2 && pen.measureText(shortened(text, letters)).width > width) letters -= 1;
  return shortened(text, letters);
}

/** @param {Pen} pen @param {number[]} xy pairs of numbers */
function polyline(pen, xy, color, width, dash = []) {
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.setLineDash(dash);
  pen.beginPath();
  for (let i = 0; i < xy.length; i += 2) (i ? pen.lineTo(xy[i], xy[i + 1]) : pen.moveTo(xy[i], xy[i + 1]));
  pen.stroke();
  pen.setLineDash([]);
}

/** @param {Pen} pen */
function clipped(pen, { x, y, w, h }, draw) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, w, h);
  pen.clip();
  draw();
  pen.restore();
}

const inside = ({ x, y, w, h }, px, py) => px >= x && px <= x + w && py >= y && py <= y + h;

/**
 * Everything that a state shows. A Scene is drawn on a canvas or as SVG; what can be pointed at is left in `hits`.
 */
export class Scene {
  /** @param {Run[]} runs @param {Object} state @param {Object} maps colors of cosines and angles, as lists of hex */
  constructor(runs, state, maps, theme, makeCanvas) {
    Object.assign(this, { runs, state, theme, makeCanvas, hits: [], canvases: {} });
    this.maps = Object.fromEntries(Object.entries(maps).map(([what, list]) => [what, list.map(hexToRgb)]));
    this.tables = Object.fromEntries(Object.entries(this.maps).map(([what, list]) => (
      [what, Uint32Array.from({ length: 256 }, (_, i) => pixelOf(mapColor(list, i / 255)))])));
    this.epochs = unionOfEpochs(runs);
    this.known = runs.filter((run) => run.classes);
    this.colors = runs.map((run, i) => (i && run.color === runs[0].color ? "#000000" : run.color));
    this.angleRange = this.rangeOfAngles();
  }

  /** The epoch of a position on the slider; between checkpoints while it plays. */
  get epoch() {
    const [i, share] = [Math.floor(this.state.at), this.state.at % 1];
    return share ? this.epochs[i] + share * (this.epochs[i + 1] - this.epochs[i]) : this.epochs[i];
  }

  /** The checkpoint of a run: while the slider stands, the last one up to its epoch. */
  placeOf(run) {
    const [e, share] = place(run.epochs ?? [], this.epoch);
    return [e, this.state.at % 1 ? share : 0];
  }

  get plane() { return this.state.plane === "three" ? this.state.corners : this.state.plane; }

  rangeOfAngles() {
    let [low, high] = [Infinity, 0];
    for (const run of this.known) {
      for (const x of run.angles) {
        if (x > 0.01 && x < low) low = x;
        if (x > high) high = x;
      }
    }
    return high > 0 && low < high ? [Math.max(low, 0.01), high] : [0.01, 90];
  }

  /** @param {Pen} pen */
  draw(pen, width) {
    const boxes = layout(width, Math.max(this.runs.length, 1));
    pen.lineJoin = "round"; // a context keeps what is set: each frame begins alike
    pen.imageSmoothingEnabled = false;
    this.hits = [];
    panelsOf(this.runs, this.state.metric).forEach((panel, i) => this.drawMetrics(pen, boxes.metrics[i], panel));
    this.runs.forEach((run, i) => this.drawPlane(pen, boxes.planes[i], run, i));
    boxes.maps.forEach((map, i) => this.drawMap(pen, map, i));
    if (this.known.length) {
      this.drawMargins(pen, boxes.margins);
      this.drawLegend(pen, boxes.legend);
    }
    return boxes.height;
  }

  color(i) { return readable(this.colors[i], this.theme.paper, 3); }

  // Metrics ..........................................................................................................

  drawMetrics(pen, box, panel) {
    const { theme, state } = this;
    const plot = { x: box.x + 40, y: box.y + 20, w: box.w - 46, h: box.h - 38 };
    const lines = [];
    this.runs.forEach((run, i) => panel.lines.forEach((line, j) => {
      const found = valuesOf(run, line);
      if (found) lines.push({ ...found, run: i, style: j, name: line.name });
    }));
    const right = panel.lines.length > 1 ? this.drawStyles(pen, panel, box) : box.x + box.w - 4;
    write(pen, fitted(pen, panel.title, right - box.x - 4, 11.5, "600"), box.x + 2, box.y + 11, { color: theme.ink, size: 11.5, weight: "600" });
    const predicted = state.theory ? this.predictions(panel) : [];
    const values = [...lines.flatMap((line) => Array.from(line.values)), ...predicted.map((p) => p.value)];
    const axis = axisOf(values, lines[0]?.series, state.scale);
    const [from, to] = state.span ?? [this.epochs[0], Math.max(this.epochs[this.epochs.length - 1], this.epochs[0] + 1)];
    const along = (epoch) => (state.logEpochs ? Math.log1p(epoch - from) / Math.log1p(to - from) : (epoch - from) / (to - from));
    const x = (epoch) => plot.x + along(Math.max(epoch, state.logEpochs ? from : -Infinity)) * plot.w;
    const y = (value) => plot.y + (1 - onAxis(axis, value)) * plot.h;
    this.drawAxes(pen, plot, axis, y, x, [from, to]);
    if (!values.some(Number.isFinite)) {
      write(pen, "not measured", plot.x + plot.w / 2, plot.y + plot.h / 2, { color: theme.grey, align: "center" });
      return;
    }
    clipped(pen, { x: plot.x, y: plot.y - 3, w: plot.w + 5, h: plot.h + 6 }, () => {
      polyline(pen, [x(this.epoch), plot.y, x(this.epoch), plot.y + plot.h], theme.grey, 1);
      for (const { run, value } of predicted) {
        polyline(pen, [plot.x, y(value), plot.x + plot.w, y(value)], this.color(run), 1.2, [1, 3]);
      }
      for (const line of lines) {
        const xy = [];
        line.values.forEach((value, e) => { if (Number.isFinite(value)) xy.push(x(line.epochs[e]), y(value)); });
        polyline(pen, xy, this.color(line.run), 1.5, DASHES[line.style % 4]);
        const now = valueAt(line, this.epoch);
        if (Number.isFinite(now)) {
          pen.fillStyle = this.color(line.run);
          pen.beginPath();
          pen.arc(x(this.epoch), y(now), 3, 0, 7);
          pen.fill();
        }
      }
    });
    this.hits.push({ kind: "metrics", box: { ...plot, y: box.y, h: box.h }, panel, lines, epochAt: (px) => {
      const share = (px - plot.x) / plot.w;
      return state.logEpochs ? from + Math.expm1(share * Math.log1p(to - from)) : from + share * (to - from);
    } });
  }

  /** Names of the dashes, on the right of the title. */
  drawStyles(pen, panel, box) {
    let right = box.x + box.w - 4;
    [...panel.lines.entries()].reverse().forEach(([j, line]) => {
      write(pen, line.name, right, box.y + 11, { color: this.theme.grey, size: 9.5, align: "right" });
      right -= pen.measureText(line.name).width + 24;
      polyline(pen, [right, box.y + 8, right + 20, box.y + 8], this.theme.ink, 1.2, DASHES[j % 4]);
      right -= 8;
    });
    return right;
  }

  drawAxes(pen, plot, axis, y, x, [from, to]) {
    const { theme, state } = this;
    const ticks = axis.log ? logTicks(axis.least, axis.high, 5) : linearTicks(axis.low, axis.high, 4);
    for (const tick of axis.zero ? [0, ...ticks] : ticks) {
      polyline(pen, [plot.x, y(tick), plot.x + plot.w, y(tick)], theme.faint, 0.6);
      write(pen, short(tick), plot.x - 4, y(tick), { color: theme.grey, size: 9.5, align: "right", baseline: "middle" });
    }
    const epochs = state.logEpochs ? [from, ...logTicks(1, Math.max(to - from, 3), 4).map((t) => t + from)] : linearTicks(from, to, 4);
    let last = -Infinity;
    for (const tick of epochs.filter((t) => t <= to && Number.isInteger(t))) {
      if (x(tick) - last < 24) continue;
      last = x(tick);
      write(pen, String(tick), last, plot.y + plot.h + 12, { color: theme.grey, size: 9.5, align: "center" });
    }
    polyline(pen, [plot.x, plot.y, plot.x, plot.y + plot.h, plot.x + plot.w, plot.y + plot.h], theme.grey, 0.8);
  }

  /** What theory predicts of a panel's metric, by run. */
  predictions(panel) {
    const names = { soft_iou: () => "train_soft_iou", tag_wise_scale: (m) => `tag_wise_scale_${m}` };
    return this.runs.flatMap((run, i) => panel.lines.filter((line) => line.split === "train").flatMap((line) => {
      const value = run.theory[names[line.metric]?.(line.labels) ?? ""];
      return value === undefined ? [] : [{ run: i, value }];
    }));
  }

  // Features .........................................................................................................

  drawPlane(pen, box, run, i) {
    const { theme, state, plane } = this;
    const title = run.classes ? `${run.label} · epoch ${this.named(run)}` : run.label;
    pen.fillStyle = this.color(i);
    pen.fillRect(box.x + 2, box.y + 3, 9, 9);
    write(pen, fitted(pen, title, box.w - 20, 12, "600"), box.x + 16, box.y + 12, { color: readable(this.colors[i], theme.paper), size: 12, weight: "600" });
    const frame = { x: box.x + 0.5, y: box.y + 18.5, w: box.w - 1, h: box.h - 19 };
    if (!run.classes) {
      const lines = wrapped(run.problems.join(" ") || "There is nothing to show.", Math.floor(frame.w / 6));
      lines.slice(0, 16).forEach((line, row) => write(pen, line, frame.x + 6, frame.y + 20 + 15 * row, { color: theme.grey }));
      return;
    }
    const view = projectBetween(run, this.placeOf(run), plane);
    const scale = (Math.min(frame.w, frame.h) / 2 / reach(plane, run.K)) * state.zoom;
    const [cx, cy] = [frame.x + frame.w / 2 + state.pan[0] * frame.w, frame.y + frame.h / 2 + state.pan[1] * frame.w];
    const onScreen = (coordinates) => {
      const flat = turned(coordinates, state.turn);
      for (let p = 0; p < flat.length; p += 2) {
        flat[p] = cx + scale * flat[p];
        flat[p + 1] = cy - scale * flat[p + 1];
      }
      return flat;
    };
    const screen = Object.fromEntries(Object.entries(view).map(([what, coordinates]) => [what, onScreen(coordinates)]));
    const classes = Array.isArray(plane) ? plane : run.classes.map((_, k) => k);
    const groups = this.groupsOf(run, plane);
    polyline(pen, [frame.x, frame.y, frame.x + frame.w, frame.y, frame.x + frame.w, frame.y + frame.h, frame.x, frame.y + frame.h, frame.x, frame.y], theme.faint, 1);
    clipped(pen, frame, () => {
      if (run.N > ROUND_DOTS) this.drawManyDots(pen, screen.points, groups, frame, `points ${i}`);
      else this.drawDots(pen, screen.points, groups);
      this.drawChosen(pen, screen.points, groups);
      if (state.theory && state.plane !== "principal") this.drawIdeal(pen, onScreen, run, classes);
      this.drawClasses(pen, screen, run, classes, frame);
    });
    const out = groups.reduce((sum, { members }) => sum + members.filter((n) => (
      !inside(frame, screen.points[2 * n], screen.points[2 * n + 1]))).length, 0);
    if (out) {
      const note = `${out} of ${groups.reduce((sum, { members }) => sum + members.length, 0)} points outside`;
      write(pen, note, frame.x + 5, frame.y + frame.h - 6, { color: theme.grey, size: 10, halo: theme.paper });
    }
    this.hits.push({ kind: "plane", box: frame, run, i, screen, classes, groups, scale });
  }

  /** The epoch of what a run shows. */
  named(run) {
    const [e, share] = this.placeOf(run);
    return share ? this.epoch.toFixed(1) : String(run.epochs[e]);
  }

  /** Features that are drawn, by color: those of their classes, mixed; gray for several labels where that would muddle. */
  groupsOf(run, plane) {
    const key = `groups ${plane} ${this.theme.paper}`;
    if (run.cache.has(key)) return run.cache.get(key);
    const wanted = Array.isArray(plane) ? new Set(plane) : null;
    const sets = new Map();
    run.labels_.forEach((labels, n) => {
      if (wanted && !labels.every((k) => wanted.has(k))) return;
      const found = sets.get(labels.join());
      if (found) found.members.push(n);
      else sets.set(labels.join(), { labels, members: [n] });
    });
    const muddle = sets.size > COLORED_SETS;
    const groups = [...sets.values()].map(({ labels, members }) => {
      const mixed = labels.map((k) => hexToRgb(classColor(k, run.K))).reduce((a, b) => a.map((x, c) => x + b[c]), [0, 0, 0]);
      const color = muddle && labels.length > 1 ? this.theme.grey : rgbToHex(mixed.map((x) => x / Math.max(labels.length, 1)));
      return { color: readable(color, this.theme.paper, 1.6), members, several: labels.length > 1 };
    });
    const sorted = groups.sort((a, b) => Number(b.several) - Number(a.several));
    run.cache.set(key, sorted);
    return sorted;
  }

  drawDots(pen, screen, groups) {
    pen.globalAlpha = 0.65;
    for (const { color, members } of groups) {
      pen.fillStyle = color;
      pen.beginPath();
      for (const n of members) {
        pen.moveTo(screen[2 * n] + 2, screen[2 * n + 1]);
        pen.arc(screen[2 * n], screen[2 * n + 1], 2, 0, 2 * Math.PI);
      }
      pen.fill();
    }
    pen.globalAlpha = 1;
  }

  /** Thousands of points as squares in an image: ten times as fast as shapes. */
  drawManyDots(pen, screen, groups, frame, slot) {
    const ratio = Math.min(globalThis.devicePixelRatio || 1, 2);
    const [w, h, size] = [Math.round(frame.w * ratio), Math.round(frame.h * ratio), Math.round(2 * ratio)];
    const [canvas, image, pixels] = this.image(slot, w, h);
    for (const { color, members } of groups) {
      const pixel = (pixelOf(hexToRgb(color)) & 0xb0ffffff) >>> 0;
      for (const n of members) {
        const left = Math.round((screen[2 * n] - frame.x) * ratio) - 1;
        const top = Math.round((screen[2 * n + 1] - frame.y) * ratio) - 1;
        if (left < 0 || top < 0 || left + size > w || top + size > h) continue;
        for (let y = top; y < top + size; y += 1) pixels.fill(pixel, y * w + left, y * w + left + size);
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    pen.drawImage(canvas, frame.x, frame.y, frame.w, frame.h);
  }

  /** A canvas that is used again in each frame, with blank pixels to be put on it. */
  image(slot, w, h) {
    const canvas = this.canvases[slot] ?? (this.canvases[slot] = this.makeCanvas());
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const image = canvas.getContext("2d", { willReadFrequently: true }).createImageData(w, h);
    return [canvas, image, new Uint32Array(image.data.buffer)];
  }

  drawChosen(pen, screen, groups) {
    const { chosen, hover } = this.state;
    if (!chosen.size && hover === null) return;
    pen.strokeStyle = this.theme.chosen;
    pen.lineWidth = 1.5;
    pen.beginPath();
    for (const n of groups.flatMap((group) => group.members)) {
      if (!chosen.has(n) && n !== hover) continue;
      pen.moveTo(screen[2 * n] + 4, screen[2 * n + 1]);
      pen.arc(screen[2 * n], screen[2 * n + 1], 4, 0, 2 * Math.PI);
    }
    pen.stroke();
  }

  /** Class means as theory has them, and the pair means it predicts from them. */
  drawIdeal(pen, onScreen, run, classes) {
    const ideal = idealMeans(this.state.plane === "three" ? "three" : "circle", classes, run.K);
    const corners = onScreen(Float32Array.from(ideal));
    polyline(pen, [...corners, corners[0], corners[1]], this.theme.ink, 1, [1, 3]);
    const scale = run.theory.tag_wise_scale_2;
    if (scale === undefined || run.K > NAMED_CLASSES) return;
    const sums = [];
    classes.forEach((_, a) => classes.slice(0, a).forEach((__, b) => {
      for (let c = 0; c < 3; c += 1) sums.push(scale * (ideal[3 * a + c] + ideal[3 * b + c]));
    }));
    const places = onScreen(Float32Array.from(sums));
    for (let p = 0; p < places.length; p += 2) {
      const [x, y] = [places[p], places[p + 1]];
      polyline(pen, [x - 4, y, x + 4, y], this.theme.ink, 1);
      polyline(pen, [x, y - 4, x, y + 4], this.theme.ink, 1);
    }
  }

  drawClasses(pen, screen, run, classes, frame) {
    const { theme } = this;
    const many = run.K > NAMED_CLASSES && classes.length > 3;
    const [cx, cy] = screen.center;
    for (const k of classes) {
      pen.globalAlpha = many ? 0.5 : 1;
      const color = many ? readable(classColor(k, run.K), theme.paper, 1.6) : theme.ink;
      polyline(pen, [cx, cy, screen.tips[2 * k], screen.tips[2 * k + 1]], color, many ? 0.7 : 1.3);
    }
    pen.globalAlpha = 1;
    const shown = run.pairs_.map((_, p) => p).filter((p) => run.pairs_[p].every((k) => classes.includes(k)));
    pen.strokeStyle = theme.ink;
    pen.lineWidth = 0.9;
    pen.fillStyle = theme.grey;
    for (const p of many ? [] : shown) {
      const [x, y, ax, ay] = [screen.pairMeans[2 * p], screen.pairMeans[2 * p + 1], screen.averages[2 * p], screen.averages[2 * p + 1]];
      pen.beginPath();
      pen.rect(ax - 4.5, ay - 4.5, 9, 9);
      pen.stroke();
      pen.beginPath();
      pen.moveTo(x, y - 3.5);
      [[x + 3.5, y], [x, y + 3.5], [x - 3.5, y]].forEach(([px, py]) => pen.lineTo(px, py));
      pen.closePath();
      pen.fill();
    }
    for (const k of classes) {
      pen.fillStyle = readable(classColor(k, run.K), theme.paper, 1.6);
      pen.strokeStyle = theme.paper;
      pen.lineWidth = 1.2;
      pen.beginPath();
      pen.arc(screen.means[2 * k], screen.means[2 * k + 1], many ? 3 : 5.5, 0, 2 * Math.PI);
      pen.fill();
      pen.stroke();
    }
    const labels = many ? [] : classes.map((k) => ({ text: run.classes[k], x: screen.means[2 * k], y: screen.means[2 * k + 1], gap: 13 }));
    if (classes.length === 3) {
      for (const p of shown) labels.push({ text: name(run, run.pairs_[p]), x: screen.averages[2 * p], y: screen.averages[2 * p + 1], gap: 14 });
    }
    this.drawNames(pen, labels, [cx, cy], frame);
  }

  /** Names beside places, on the side away from the center; one that would cover another is left to hovering. */
  drawNames(pen, labels, [cx, cy], frame) {
    /** @type {Box[]} */
    const taken = [];
    for (const { text, x, y, gap } of labels) {
      const size = Math.hypot(x - cx, y - cy) || 1;
      const [dx, dy] = [(x - cx) / size, (y - cy) / size];
      const shown = shortened(text, 14);
      pen.font = `11px ${FONT}`;
      const w = pen.measureText(shown).width;
      const px = Math.min(Math.max(x + dx * (gap + w / 2), frame.x + w / 2 + 2), frame.x + frame.w - w / 2 - 2);
      const py = Math.min(Math.max(y + dy * gap, frame.y + 8), frame.y + frame.h - 8);
      const box = { x: px - w / 2, y: py - 6, w, h: 12 };
      if (taken.some((b) => b.x < box.x + box.w && box.x < b.x + b.w && b.y < box.y + box.h && box.y < b.y + b.h)) continue;
      taken.push(box);
      write(pen, shown, px, py, { color: this.theme.ink, align: "center", baseline: "middle", halo: this.theme.paper });
    }
  }

  // Maps .............................................................................................................

  drawMap(pen, { kind, run: i, box }, slot) {
    const { theme } = this;
    const run = kind === "etf" ? this.known[0] : this.runs[i];
    if (!run?.classes) return;
    const K = run.K;
    const longest = Math.max(...run.classes.map((text) => text.length));
    const room = K > LABELED_CELLS ? 4 : Math.min(5.4 * longest + 6, 40);
    const side = Math.max(Math.min(box.w - room, box.h - 16 - room), 20);
    const cells = { x: Math.round(box.x + room), y: Math.round(box.y + 16), w: Math.round(side), h: Math.round(side) };
    const values = this.valuesOfMap(kind, run);
    const range = kind === "angles" ? this.angleRange : [-1 / (K - 1) - 0.2, 1];
    pen.drawImage(this.paint(slot, values, K, kind, range), cells.x, cells.y, cells.w, cells.h);
    const titles = { means: "class means", classifier: "classifier", etf: "simplex ETF", angles: run.multi ? "pair angles" : "off the ETF's" };
    const note = this.noteOfMap(kind, run, values);
    write(pen, note, cells.x + cells.w, box.y + 11, { color: theme.grey, size: 9.5, align: "right" });
    const free = cells.x + cells.w - box.x - pen.measureText(note).width - 18;
    if (kind !== "etf") {
      pen.fillStyle = this.color(i);
      pen.fillRect(box.x, box.y + 4, 7, 7);
    }
    write(pen, fitted(pen, titles[kind], free, 10.5), box.x + (kind === "etf" ? 0 : 10), box.y + 11, { color: theme.ink, size: 10.5 });
    if (K <= LABELED_CELLS) this.drawCellNames(pen, cells, run.classes, room);
    if (this.state.labels.length && this.state.labels.length < 3 && kind !== "etf") this.drawChosenCell(pen, cells, K);
    this.hits.push({ kind: "map", what: kind, box: cells, run, i, values, K });
  }

  valuesOfMap(kind, run) {
    const { K } = run;
    if (kind === "etf") return Float32Array.from({ length: K * K }, (_, c) => (c % (K + 1) ? -1 / (K - 1) : 1));
    const arrays = { means: run.gram_features, classifier: run.gram_weight, angles: run.angles };
    return between(arrays[kind], K * K, this.placeOf(run));
  }

  /** Largest distance of a cosine from its ideal, as in the figures; mean angle of the pairs. */
  noteOfMap(kind, run, values) {
    const { K } = run;
    if (kind === "etf") return `${short(-1 / (K - 1))} beside 1`;
    let [most, sum, count] = [0, 0, 0];
    for (let c = 0; c < values.length; c += 1) {
      const diagonal = c % (K + 1) === 0;
      most = Math.max(most, Math.abs(values[c] - (diagonal ? 1 : -1 / (K - 1))));
      if (diagonal || Number.isNaN(values[c])) continue;
      sum += values[c];
      count += 1;
    }
    if (kind === "angles") return count ? `mean ${short(sum / count)}°` : "no pairs";
    return `within ${short(most)}`;
  }

  /** The cells as an image of K x K pixels. */
  paint(slot, values, K, kind, [low, high]) {
    const [canvas, image, pixels] = this.image(slot, K, K);
    const colors = this.tables[kind === "angles" ? "angle" : "cosine"];
    const blank = pixelOf(hexToRgb(this.theme.faint));
    const scale = (colors.length - 1) / (kind === "angles" ? Math.log(high / low) : high - low);
    for (let c = 0; c < pixels.length; c += 1) {
      const share = scale * (kind === "angles" ? Math.log(Math.max(values[c], low) / low) : values[c] - low);
      pixels[c] = Number.isNaN(share) ? blank : colors[Math.max(0, Math.min(Math.round(share), colors.length - 1))];
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  /** Class names beside the rows, and below the columns (upright where they are longer than a cell). */
  drawCellNames(pen, cells, names, room) {
    const [K, step] = [names.length, cells.w / names.length];
    const size = Math.min(9.5, step + 1);
    if (size < 6) return;
    const upright = Math.max(...names.map((text) => text.length)) * 0.6 * size > step;
    for (let k = 0; k < K; k += 1) {
      const [text, middle] = [fitted(pen, names[k], upright ? room - 4 : step, size), (k + 0.5) * step];
      write(pen, text, cells.x - 3, cells.y + middle, { color: this.theme.grey, size, align: "right", baseline: "middle" });
      if (!upright) {
        write(pen, text, cells.x + middle, cells.y + cells.h + 10, { color: this.theme.grey, size, align: "center" });
        continue;
      }
      pen.save();
      pen.translate(cells.x + middle, cells.y + cells.h + 3);
      pen.rotate(-Math.PI / 2);
      write(pen, text, 0, 0, { color: this.theme.grey, size, align: "right", baseline: "middle" });
      pen.restore();
    }
  }

  drawChosenCell(pen, cells, K) {
    const [i, j] = [this.state.labels[0], this.state.labels[this.state.labels.length - 1]];
    const step = cells.w / K;
    for (const [row, column] of [[i, j], [j, i]]) {
      for (const [color, width] of [[this.theme.paper, 3.4], [this.theme.chosen, 1.7]]) {
        const [x, y, s] = [cells.x + column * step, cells.y + row * step, step];
        polyline(pen, [x, y, x + s, y, x + s, y + s, x, y + s, x, y - 0.8], color, width);
      }
    }
  }

  // Margins and legend ...............................................................................................

  drawMargins(pen, box) {
    const { theme, state } = this;
    const what = state.margins === "released" ? "released_margins" : "margins";
    const title = what === "margins" ? "cosine margins (sample)" : "margins as released (all)";
    write(pen, fitted(pen, title, box.w - 6, 11.5, "600"), box.x + 26, box.y + 12, { color: theme.ink, size: 11.5, weight: "600" });
    const plot = { x: box.x + 34, y: box.y + 20, w: box.w - 44, h: box.h - 50 };
    const curves = this.runs.map((run, i) => ({ run, i, q: run.classes ? run.shapes[what][1][1] : 0 })).filter(({ q }) => q);
    const values = curves.map(({ run, q }) => between(run[what], q, this.placeOf(run)));
    const K = Math.max(...this.known.map((run) => run.K));
    const ideal = K / (K - 1);
    let low = 0; // over all epochs, so that the scale stands still
    for (const { run } of curves) for (const value of run[what]) if (value < low) low = value;
    const axis = { log: false, low: low - 0.05, high: ideal + 0.12, zero: null, least: low };
    const y = (value) => plot.y + (1 - onAxis(axis, value)) * plot.h;
    for (const tick of linearTicks(axis.low, axis.high, 5)) {
      polyline(pen, [plot.x, y(tick), plot.x + plot.w, y(tick)], tick ? theme.faint : theme.grey, tick ? 0.6 : 0.9);
      write(pen, short(tick), plot.x - 4, y(tick), { color: theme.grey, size: 9.5, align: "right", baseline: "middle" });
    }
    polyline(pen, [plot.x, y(ideal), plot.x + plot.w, y(ideal)], theme.ink, 1.1, [1, 3]);
    values.forEach((margins, c) => {
      const xy = [];
      margins.forEach((value, m) => xy.push(plot.x + (plot.w * m) / Math.max(margins.length - 1, 1), y(value)));
      polyline(pen, xy, this.color(curves[c].i), 1.7);
    });
    [0, 50, 100].forEach((share) => {
      write(pen, `${share}${share === 100 ? " %" : ""}`, plot.x + (plot.w * share) / 100, plot.y + plot.h + 12, { color: theme.grey, size: 9.5, align: share === 100 ? "right" : "center" });
    });
    write(pen, fitted(pen, "one-label training images, by margin", plot.w, 10), plot.x, plot.y + plot.h + 25, { color: theme.grey, size: 10 });
    this.hits.push({ kind: "margins", box: plot, curves, values, ideal });
  }

  drawLegend(pen, box) {
    const { theme, state } = this;
    const bars = [["cosine", [-1 / (this.known[0].K - 1) - 0.2, 1], linearTicks(-0.4, 1, 4)], ["angle", this.angleRange, logTicks(...this.angleRange, 4)]];
    bars.forEach(([what, [low, high], ticks], b) => {
      const bar = { x: box.x + 34 + b * ((box.w - 34) / 2), y: box.y, w: (box.w - 34) / 2 - 18, h: 8 };
      for (let p = 0; p < bar.w; p += 3) {
        pen.fillStyle = rgbToHex(mapColor(this.maps[what], p / bar.w));
        pen.fillRect(bar.x + p, bar.y, Math.min(3.4, bar.w - p), bar.h);
      }
      let last = -Infinity;
      for (const tick of ticks) {
        const share = what === "angle" ? Math.log(tick / low) / Math.log(high / low) : (tick - low) / (high - low);
        const x = bar.x + share * bar.w;
        if (share < 0 || share > 1 || x - last < 24) continue;
        last = x;
        write(pen, short(tick) + (what === "angle" ? "°" : ""), x, bar.y + 18, { color: theme.grey, size: 9.5, align: "center" });
      }
      write(pen, what, bar.x, bar.y - 3, { color: theme.grey, size: 9.5 });
    });
    const symbols = [["•", "training image"], ["●", "class mean"], ["—", "classifier row"]];
    if (this.known.some((run) => run.pairs.length)) symbols.push(["◆", "pair mean"], ["□", "tag-wise average"]);
    if (state.theory) symbols.push(["┈", "predicted"]);
    const step = Math.min((box.w - 34) / 2, 150);
    symbols.forEach(([symbol, text], s) => {
      const [x, y] = [box.x + 40 + (s % 2) * step, box.y + 44 + 17 * Math.floor(s / 2)];
      write(pen, symbol, x, y, { color: theme.ink, size: 13, align: "center" });
      write(pen, fitted(pen, text, step - 14, 10.5), x + 12, y, { color: theme.ink, size: 10.5 });
    });
  }
}

// Widget -------------------------------------------------------------------------------------------------------------

/** A new element; text becomes a text node, so nothing from a file is ever read as HTML. */
function el(tag, properties = {}, ...children) {
  const { style, data, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.style, style);
  for (const [key, value] of Object.entries(data ?? {})) element.setAttribute(key, String(value));
  element.append(...children.filter((child) => child !== null));
  return element;
}

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

const HELP = `←/→ checkpoint   Home/End first/last   PgUp/PgDn five   Space play   +/- zoom   Shift+arrows turn
W A S D pan   0 reset view   N next label set   Esc clear   T theory   L axes   P PNG   V SVG
In a plane: drag turns (or pans, or selects), Shift+drag selects, wheel with Ctrl zooms, double click resets.`;

class View {
  /** @param {any} model of anywidget @param {HTMLElement} root */
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.state = {
      at: 0, playing: false, plane: "circle", corners: [0, 1, 2], turn: [0, 0], zoom: 1, pan: [0, 0], metric: "", scale: "figures",
      logEpochs: false, span: null, margins: "cosine", theory: false, drag: "turn", chosen: new Set(), labels: [], hover: null,
    };
    this.frames = 0;
    this.build();
    this.listen();
    this.receive();
  }

  build() {
    const c = {};
    this.controls = c;
    const select = (key, label, change) => {
      c[key] = el("select", { className: `nc-${key}`, title: label, onchange: () => change(c[key].value), data: { "aria-label": label } });
      return c[key];
    };
    const choose = () => this.choose();
    const set = (key) => (value) => this.set({ [key]: value });
    const check = (key, text) => {
      c[key] = el("input", { type: "checkbox", className: `nc-${key}`, onchange: () => this.set({ [key]: c[key].checked }) });
      return el("label", {}, c[key], text);
    };
    const button = (text, title, onclick, className) => el("button", { type: "button", textContent: text, title, onclick, className, data: { "aria-label": title } });
    c.metric = el("input", { className: "nc-metric", placeholder: "search metrics", onchange: () => this.pickMetric(), onfocus: () => { c.metric.value = ""; }, onblur: () => this.nameMetric(), data: { "aria-label": "metric in the last panel", list: `nc-metrics-${View.count}` } });
    c.metrics = el("datalist", { id: `nc-metrics-${View.count}` });
    View.count += 1;
    c.play = button("▶", "play (Space)", () => this.play(), "nc-play");
    c.epoch = el("input", { type: "range", min: "0", step: "any", className: "nc-epoch", oninput: () => this.go(Math.round(Number(c.epoch.value))), data: { "aria-label": "checkpoint" } });
    c.readout = el("output", { className: "nc-readout" });
    const corners = [0, 1, 2].map((i) => select(`corner${i}`, `class ${i + 1} of the plane`, (value) => this.corner(i, Number(value))));
    const first = el("div", { className: "nc-bar" },
      el("label", {}, "study ", select("study", "study", choose)), el("label", {}, "run ", select("run0", "run", choose), select("seed0", "seed", choose)),
      el("label", {}, "beside ", select("run1", "second run", choose), select("seed1", "seed of the second run", choose)),
      button("↻", "read the outputs again", () => this.choose(1), "nc-reload"), el("label", {}, "metric ", c.metric, c.metrics),
      el("label", {}, "axes ", select("scale", "scale of the metrics", set("scale"))), check("logEpochs", "log epochs"), check("theory", "theory"));
    const second = el("div", { className: "nc-bar" }, c.play, c.epoch, c.readout, el("label", {}, "plane ", select("plane", "plane of the features", (value) => this.setPlane(value))),
      ...corners, el("label", {}, "drag ", select("drag", "what dragging in a plane does", set("drag"))), el("label", {}, "margins ", select("margins", "margins", set("margins"))),
      button("⟲", "reset the view (0)", () => this.reset(), "nc-reset"), button("PNG", "save the view as PNG (P)", () => this.save("png"), "nc-png"), button("SVG", "save the view as SVG (V)", () => this.save("svg"), "nc-svg"),
      button("?", HELP, () => this.say(HELP), "nc-help"));
    offer(c.scale, [["as in the figures", "figures"], ["logarithmic", "log"], ["linear", "linear"]], "figures");
    offer(c.plane, [["all classes, a circle", "circle"], ["principal axes", "principal"], ["three classes", "three"]], "circle");
    offer(c.drag, [["turns", "turn"], ["pans", "pan"], ["selects", "select"]], "turn");
    offer(c.margins, [["cosine", "cosine"], ["as released", "released"]], "cosine");
    c.message = el("div", { className: "nc-message", data: { role: "status" } });
    c.canvas = el("canvas", { className: "nc-canvas", data: { role: "img" } });
    c.tip = el("div", { className: "nc-tip", hidden: true });
    c.brush = el("div", { className: "nc-brush", hidden: true });
    c.details = el("div", { className: "nc-details" });
    this.root.classList.add("nc-explorer");
    this.root.tabIndex = 0;
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // or JupyterLab takes the keys
    this.root.replaceChildren(el("div", { className: "nc-controls" }, first, second, c.message), el("div", { className: "nc-stage" }, c.canvas, c.tip, c.brush), c.details);
  }

  listen() {
    const { canvas } = this.controls;
    this.ended = new AbortController();
    const on = (target, kind, act, options = {}) => target.addEventListener(kind, act, { signal: this.ended.signal, ...options });
    // before the host, which would move between cells: Notebook 7 takes arrow keys while the page captures them
    on(window, "keydown", (event) => this.root.contains(event.target) && this.key(event), { capture: true });
    on(canvas, "pointerdown", (event) => this.down(event));
    on(canvas, "pointermove", (event) => this.move(event));
    on(canvas, "pointerup", (event) => this.up(event));
    on(canvas, "pointerleave", () => this.hover(null));
    on(canvas, "dblclick", () => this.reset());
    on(canvas, "wheel", (event) => this.wheel(event), { passive: false });
    this.sizes = new ResizeObserver(() => this.redraw());
    this.sizes.observe(this.root);
    const retheme = () => isDark() === this.dark || this.restyle();
    this.themes = new MutationObserver(retheme);
    for (const target of [document.body, document.documentElement]) this.themes.observe(target, { attributes: true });
    on(matchMedia("(prefers-color-scheme: dark)"), "change", retheme);
    this.received = () => this.receive();
    this.model.on("change:shown", this.received);
  }

  end() {
    this.model.off("change:shown", this.received);
    this.ended.abort();
    this.sizes.disconnect();
    this.themes.disconnect();
    this.state.playing = false;
  }

  // What is shown ....................................................................................................

  receive() {
    const shown = this.model.get("shown");
    const before = this.shown;
    this.shown = shown;
    clearTimeout(this.waiting);
    this.root.classList.remove("nc-busy");
    this.runs = shown.runs.map(readRun);
    const known = this.runs.filter((run) => run.classes);
    this.say([shown.message, ...new Set(this.runs.flatMap((run) => run.problems))].filter(Boolean).join("\n"));
    const { state, controls: c } = this;
    const epoch = this.scene?.epoch;
    state.hover = null;
    this.names = metricNames(this.runs);
    c.metrics.replaceChildren(...[...this.names.keys()].map((text) => el("option", { value: text })));
    if (![...this.names.values()].includes(state.metric)) state.metric = "";
    this.nameMetric();
    this.offerRuns();
    const K = Math.min(...known.map((run) => run.K), Infinity);
    if (before?.study !== shown.study || !(Math.max(...state.corners) < K)) {
      Object.assign(state, { corners: [0, 1, 2], chosen: new Set(), labels: [], span: null });
      if (K < 3 && state.plane === "three") state.plane = "circle";
    }
    const classes = (known.find((run) => run.K === K)?.classes ?? []).map((text, k) => [text, k]);
    [0, 1, 2].forEach((i) => offer(c[`corner${i}`], classes, state.corners[i]));
    c.plane.options[2].disabled = !(K >= 3 && K < Infinity);
    c.plane.value = state.plane;
    this.restyle();
    const last = this.scene.epochs.length - 1;
    c.epoch.max = String(last);
    state.at = before?.study === shown.study && epoch !== undefined ? place(this.scene.epochs, epoch)[0] : last;
    c.play.disabled = c.epoch.disabled = last < 1;
    [0, 1, 2].forEach((i) => { c[`corner${i}`].hidden = state.plane !== "three"; });
    c.theory.disabled = !this.runs.some((run) => Object.keys(run.theory).length);
    c.theory.parentElement.title = c.theory.disabled
      ? "Theory has no prediction here: its loss, decays, optimizer or label counts are others."
      : this.runs.map((run) => `${run.label}: ${Object.entries(run.theory).map(([key, value]) => `${key.replaceAll("_", " ")} ${short(value)}`).join(", ") || "no prediction"}`).join("\n");
    this.details();
    this.redraw();
  }

  offerRuns() {
    const { controls: c, shown } = this;
    const found = shown.catalog[shown.study] ?? {};
    offer(c.study, [...new Set([...Object.keys(shown.catalog), shown.study])].map((text) => [text, text]), shown.study);
    const names = Object.keys(found).map((text) => [text, text]);
    const [first, second] = shown.chosen;
    offer(c.run0, names, first?.[0] ?? "");
    offer(c.run1, [["none", ""], ...names], second?.[0] ?? "");
    [first, second].forEach((which, i) => offer(c[`seed${i}`], (found[which?.[0]] ?? []).map((seed) => [`seed ${seed}`, seed]), which?.[1] ?? ""));
    c.seed1.hidden = !second;
  }

  /** Ask for what the controls say; everything stays as it is until all of it is there. */
  choose(again = 0) {
    const { controls: c, shown } = this;
    const study = c.study.value;
    const found = shown.catalog[study] ?? {};
    const chosen = [0, 1].map((i) => [c[`run${i}`].value, Number(c[`seed${i}`].value)]).filter(([run]) => run in found);
    const runs = study === shown.study ? chosen.map(([run, seed]) => [run, found[run].includes(seed) ? seed : found[run][0]]) : [];
    if (!runs.length) Object.entries(found).slice(0, 2).forEach(([run, seeds]) => runs.push([run, seeds[0]]));
    this.root.classList.add("nc-busy");
    this.waiting = setTimeout(() => this.say("No answer yet: is the kernel running? Run the cell again if it was restarted."), 8000);
    this.model.set("choice", { study, runs, read: shown.read + again });
    this.model.save_changes();
  }

  restyle() {
    this.dark = isDark();
    this.root.classList.toggle("nc-dark", this.dark);
    this.scene = new Scene(this.runs, this.state, this.shown.maps, THEMES[this.dark ? "dark" : "light"], () => el("canvas"));
    this.redraw();
  }

  say(text) { this.controls.message.textContent = text; }

  set(changes) {
    Object.assign(this.state, changes);
    this.redraw();
  }

  setPlane(plane) {
    [0, 1, 2].forEach((i) => { this.controls[`corner${i}`].hidden = plane !== "three"; });
    this.set({ plane, turn: [0, 0] });
  }

  /** The corners stay three different classes: one that is taken swaps places. */
  corner(i, k) {
    const corners = [...this.state.corners];
    const other = corners.indexOf(k);
    if (other >= 0) corners[other] = corners[i];
    corners[i] = k;
    corners.forEach((value, j) => { this.controls[`corner${j}`].value = String(value); });
    this.set({ corners });
  }

  /** Show the metric whose name was typed, or the first that holds all words of it. */
  pickMetric() {
    const text = this.controls.metric.value.trim().toLowerCase();
    const names = [...this.names.keys()];
    const match = names.find((found) => found.toLowerCase() === text)
      ?? names.find((found) => text.split(/\s+/).every((word) => `${found} ${this.names.get(found)}`.toLowerCase().includes(word)));
    if (!text) return;
    if (match) this.set({ metric: this.names.get(match) });
    else this.say(`No metric is called ${text}.`);
    this.controls.metric.blur();
  }

  nameMetric() {
    this.controls.metric.value = [...this.names].find(([, key]) => key === this.state.metric)?.[0] ?? "";
  }

  // Drawing ..........................................................................................................

  redraw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame((now) => {
      this.pending = 0;
      this.frame(now);
    });
  }

  frame(now) {
    const { state, controls: c, scene } = this;
    const last = scene.epochs.length - 1;
    if (state.playing) {
      state.at = Math.min(last, state.at + (Math.min(now - this.before, 100) * last) / SECONDS_OF_PLAY / 1000);
      this.before = now;
      if (state.at >= last) this.play(false);
      else this.redraw();
    }
    const width = Math.max(c.canvas.parentElement.clientWidth, 640);
    const { height } = layout(width, Math.max(this.runs.length, 1));
    const ratio = globalThis.devicePixelRatio || 1;
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (c.canvas.width !== pixels[0] || c.canvas.height !== pixels[1]) {
      [c.canvas.width, c.canvas.height] = pixels;
      Object.assign(c.canvas.style, { width: `${width}px`, height: `${height}px` });
    }
    const pen = c.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    scene.draw(pen, width);
    c.epoch.value = String(state.at);
    c.readout.textContent = `epoch ${state.at % 1 ? scene.epoch.toFixed(1) : scene.epoch}`;
    this.frames += 1;
    Object.assign(this.root.dataset, { frames: String(this.frames), epoch: String(scene.epoch), runs: this.runs.map((run) => run.label).join(" | ") });
    c.canvas.setAttribute("aria-label", `${this.root.dataset.runs} at epoch ${scene.epoch}`);
    if (state.at % 1 === 0 && this.drawnAt !== state.at) this.details();
    this.drawnAt = state.at;
    this.warm();
  }

  /** Project the other checkpoints while nothing else is to do, so that each step finds its own ready. */
  warm() {
    clearTimeout(this.warming);
    const key = (run, e) => `${e} ${this.scene.plane}`;
    const next = this.scene.known.flatMap((run) => Array.from({ length: run.E }, (_, e) => [run, e])).find(([run, e]) => !run.cache.has(key(run, e)));
    if (!next || this.state.playing) return;
    this.warming = setTimeout(() => {
      project(next[0], next[1], this.scene.plane);
      this.warm();
    }, 30);
  }

  go(at) {
    this.play(false);
    this.set({ at: Math.min(Math.max(at, 0), this.scene.epochs.length - 1) });
  }

  play(playing = !this.state.playing) {
    const last = this.scene.epochs.length - 1;
    if (playing && this.state.at >= last) this.state.at = 0;
    if (!playing && this.state.playing) this.state.at = Math.round(this.state.at);
    this.state.playing = playing && last > 0;
    this.before = performance.now();
    this.controls.play.textContent = this.state.playing ? "⏸" : "▶";
    this.redraw();
  }

  reset() { this.set({ turn: [0, 0], zoom: 1, pan: [0, 0], span: null }); }

  save(kind) {
    const width = this.controls.canvas.clientWidth;
    const { height } = layout(width, Math.max(this.runs.length, 1));
    const canvas = el("canvas", { width: 2 * width, height: 2 * height });
    const pen = /** @type {any} */ (kind === "svg" ? new SvgPen(width, height) : canvas.getContext("2d"));
    if (kind === "png") pen.scale(2, 2);
    pen.fillStyle = this.scene.theme.paper;
    pen.fillRect(0, 0, width, height);
    this.scene.draw(pen, width);
    if (kind === "png") canvas.toBlob((blob) => this.download(blob, kind));
    else this.download(new Blob([pen.svg], { type: "image/svg+xml" }), kind);
  }

  download(blob, kind) {
    const link = el("a", { href: URL.createObjectURL(blob), download: `${this.shown.study}-epoch${this.scene.epoch}.${kind}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // Keys and pointer .................................................................................................

  key(event) {
    const { target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();
    if (target.tagName === "SELECT" || (target.tagName === "INPUT" && target.className === "nc-metric")) return;
    if (event.key === " " && ["BUTTON", "INPUT"].includes(target.tagName) && target.className !== "nc-epoch") return;
    const { state, controls: c } = this;
    const last = this.scene.epochs.length - 1;
    const [now, step] = [Math.round(state.at), Math.PI / 24];
    const turn = (x, y) => this.set({ turn: [state.turn[0] + x * step, state.turn[1] + y * step] });
    const pan = (x, y) => this.set({ pan: [state.pan[0] + x * 0.05, state.pan[1] + y * 0.05] });
    const keys = {
      ArrowLeft: () => (event.shiftKey ? turn(-1, 0) : this.go(now - 1)),
      ArrowRight: () => (event.shiftKey ? turn(1, 0) : this.go(now + 1)),
      ArrowUp: () => (event.shiftKey ? turn(0, 1) : this.go(now + 1)),
      ArrowDown: () => (event.shiftKey ? turn(0, -1) : this.go(now - 1)),
      PageUp: () => this.go(now + 5), PageDown: () => this.go(now - 5), Home: () => this.go(0), End: () => this.go(last),
      " ": () => this.play(), "+": () => this.set({ zoom: state.zoom * 1.2 }), "=": () => this.set({ zoom: state.zoom * 1.2 }),
      "-": () => this.set({ zoom: state.zoom / 1.2 }), 0: () => this.reset(), n: () => this.nextLabels(),
      a: () => pan(1, 0), d: () => pan(-1, 0), w: () => pan(0, 1), s: () => pan(0, -1), Escape: () => this.select([], []),
      t: () => { c.theory.checked = !c.theory.checked && !c.theory.disabled; this.set({ theory: c.theory.checked }); },
      l: () => { c.scale.selectedIndex = (c.scale.selectedIndex + 1) % 3; this.set({ scale: c.scale.value }); },
      p: () => this.save("png"), v: () => this.save("svg"),
    };
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  at(event) {
    const box = this.controls.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  hitAt(x, y) { return this.scene.hits.find(({ box }) => inside(box, x, y)); }

  down(event) {
    const [x, y] = this.at(event);
    const hit = this.hitAt(x, y);
    this.root.focus({ preventScroll: true });
    if (!hit) return;
    this.controls.canvas.setPointerCapture(event.pointerId);
    const how = event.shiftKey ? "select" : event.button === 1 || event.altKey ? "pan" : this.state.drag;
    this.dragging = { hit, how, x, y, moved: false, turn: this.state.turn, pan: this.state.pan };
    if (hit.kind === "metrics") this.goTo(hit.epochAt(x));
  }

  goTo(epoch) {
    const { epochs } = this.scene;
    this.go(epochs.reduce((best, e, i) => (Math.abs(e - epoch) < Math.abs(epochs[best] - epoch) ? i : best), 0));
  }

  move(event) {
    const [x, y] = this.at(event);
    const drag = this.dragging;
    if (!drag) return this.hover(this.hitAt(x, y), x, y);
    const [dx, dy] = [x - drag.x, y - drag.y];
    drag.moved ||= Math.hypot(dx, dy) > 3;
    if (!drag.moved) return undefined;
    if (drag.hit.kind === "metrics") return this.goTo(drag.hit.epochAt(x));
    if (drag.hit.kind !== "plane") return undefined;
    if (drag.how === "turn") return this.set({ turn: [drag.turn[0] + dx / 120, drag.turn[1] + dy / 120] });
    const { w } = drag.hit.box;
    if (drag.how === "pan") return this.set({ pan: [drag.pan[0] + dx / w, drag.pan[1] + dy / w] });
    const box = { left: `${Math.min(x, drag.x)}px`, top: `${Math.min(y, drag.y)}px`, width: `${Math.abs(dx)}px`, height: `${Math.abs(dy)}px` };
    Object.assign(this.controls.brush.style, box);
    this.controls.brush.hidden = false;
    return undefined;
  }

  up(event) {
    const drag = this.dragging;
    const [x, y] = this.at(event);
    this.dragging = null;
    this.controls.brush.hidden = true;
    if (!drag || (drag.moved && drag.how !== "select")) return;
    const { hit } = drag;
    if (hit.kind === "plane" && drag.moved) {
      const box = { x: Math.min(x, drag.x), y: Math.min(y, drag.y), w: Math.abs(x - drag.x), h: Math.abs(y - drag.y) };
      const { points } = hit.screen;
      this.select(hit.groups.flatMap((group) => group.members).filter((n) => inside(box, points[2 * n], points[2 * n + 1])), []);
    } else if (hit.kind === "plane") {
      const found = this.nearest(hit, x, y);
      if (found?.labels) this.selectLabels(found.labels);
      else this.select(found ? [found.point] : [], found ? hit.run.labels_[found.point] : []);
    } else if (hit.kind === "map") this.selectLabels(this.cellAt(hit, x, y));
  }

  cellAt({ box, K }, x, y) {
    const at = [(y - box.y) / box.h, (x - box.x) / box.w].map((share) => Math.min(Math.floor(share * K), K - 1));
    return [...new Set(at)].sort((a, b) => a - b);
  }

  /** What is nearest to a place in a plane: a class or pair mean, or a feature; null if nothing is near. */
  nearest({ screen, groups, classes, run }, x, y) {
    const found = { distance: 10 };
    const look = (array, i, what, least = 0) => {
      const distance = Math.hypot(array[2 * i] - x, array[2 * i + 1] - y) + least;
      if (distance < found.distance) Object.assign(found, { labels: undefined, point: undefined }, what, { distance });
    };
    for (const n of groups.flatMap((group) => group.members)) look(screen.points, n, { point: n }, 2);
    for (const k of classes) look(screen.means, k, { labels: [k] });
    run.pairs_.forEach((labels, p) => { if (labels.every((k) => classes.includes(k))) look(screen.pairMeans, p, { labels }); });
    return found.distance < 10 ? found : null;
  }

  wheel(event) {
    const [x, y] = this.at(event);
    const hit = this.hitAt(x, y);
    if (!hit || !(event.ctrlKey || event.metaKey)) return; // a plain wheel scrolls the page
    event.preventDefault();
    const factor = Math.exp(-event.deltaY / 300);
    if (hit.kind === "plane") {
      const [u, v] = [(x - hit.box.x) / hit.box.w - 0.5, (y - hit.box.y) / hit.box.w - hit.box.h / hit.box.w / 2];
      const { pan, zoom } = this.state;
      this.set({ zoom: zoom * factor, pan: [u - factor * (u - pan[0]), v - factor * (v - pan[1])] });
    } else if (hit.kind === "metrics") {
      const { epochs } = this.scene;
      const [from, to] = this.state.span ?? [epochs[0], epochs[epochs.length - 1]];
      const epoch = hit.epochAt(x);
      const span = [Math.max(epoch - (epoch - from) / factor, epochs[0]), Math.min(epoch + (to - epoch) / factor, epochs[epochs.length - 1])];
      this.set({ span: span[1] - span[0] < 1 ? this.state.span : span });
    }
  }

  // What is pointed at and chosen ....................................................................................

  hover(hit, x = 0, y = 0) {
    const { tip, canvas } = this.controls;
    const found = hit?.kind === "plane" ? this.nearest(hit, x, y) : null;
    const lines = hit ? this.wordsOf(hit, found, x, y) : [];
    tip.hidden = !lines.length;
    if (lines.length) {
      const image = found?.point === undefined ? null : this.image(hit.run, found.point, 64);
      tip.replaceChildren(...[image].filter(Boolean), ...lines.map((text) => el("div", { textContent: text })));
      Object.assign(tip.style, { left: `${Math.min(x + 14, canvas.clientWidth - tip.offsetWidth - 4)}px`, top: `${Math.min(y + 14, canvas.clientHeight - tip.offsetHeight)}px` });
    }
    const point = found?.point ?? null;
    if (point !== this.state.hover) this.set({ hover: point });
  }

  wordsOf(hit, found, x, y) {
    if (hit.kind === "plane") {
      if (!found) return [];
      if (found.labels) return [`mean of ${name(hit.run, found.labels)}`];
      const at = this.scene.placeOf(hit.run)[0] * hit.run.N + found.point;
      const margin = hit.run.margin[at];
      return [`labels: ${name(hit.run, hit.run.labels_[found.point])}`, `predicted: ${name(hit.run, this.predicted(hit.run, at))}`,
        Number.isFinite(margin) ? `cosine margin ${margin.toFixed(3)}` : "several labels: no margin"];
    }
    if (hit.kind === "map") {
      const labels = this.cellAt(hit, x, y);
      const value = hit.values[labels[0] * hit.K + labels[labels.length - 1]];
      if (hit.what !== "angles") return [name(hit.run, labels), `cosine ${value.toFixed(4)}`];
      return [name(hit.run, labels), Number.isFinite(value) ? `${value.toFixed(3)}°` : "not in the training data"];
    }
    if (hit.kind === "metrics") {
      const { epoch } = this.scene;
      return [`${hit.panel.title}, epoch ${epoch.toFixed(epoch % 1 ? 1 : 0)}`,
        ...hit.lines.map((line) => `${this.runs[line.run].label}${line.name ? `, ${line.name}` : ""}: ${short(valueAt(line, epoch))}`)];
    }
    const share = (x - hit.box.x) / hit.box.w;
    return hit.curves.map(({ run }, c) => {
      const margins = hit.values[c];
      return `${run.label}: ${Math.round(100 * share)} % lie below ${margins[Math.round(share * (margins.length - 1))].toFixed(3)}`;
    });
  }

  predicted(run, at) { return Array.from(run.predicted.subarray(at * run.M, (at + 1) * run.M)).filter((k) => k !== NO_LABEL); }

  /** A training image as a canvas; null if it is not among those sent. */
  image(run, n, side) {
    if (!run.images || n >= run.shapes.images[1][0]) return null;
    const [, channels, h, w] = run.shapes.images[1];
    const canvas = el("canvas", { width: w, height: h, className: "nc-image", style: { width: `${side}px`, height: `${(side * h) / w}px` } });
    const context = canvas.getContext("2d");
    const image = context.createImageData(w, h);
    for (let p = 0; p < h * w; p += 1) {
      for (let c = 0; c < 3; c += 1) image.data[4 * p + c] = run.images[(n * channels + Math.min(c, channels - 1)) * h * w + p];
      image.data[4 * p + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  /** Choose a label set: its features, or for a pair that the data have not, those of both classes. */
  selectLabels(labels) {
    const run = this.scene.known[0];
    const of = (set) => run.labels_.flatMap((own, n) => (own.join() === set.join() ? [n] : []));
    const found = of(labels);
    this.select(found.length ? found : labels.flatMap((k) => of([k])), labels);
  }

  nextLabels() {
    const sets = this.scene.known[0]?.sets_ ?? [];
    if (sets.length) this.selectLabels(sets[(sets.findIndex((set) => set.join() === this.state.labels.join()) + 1) % sets.length]);
  }

  select(points, labels) {
    this.set({ chosen: new Set(points), labels });
    this.details();
  }

  /** The chosen label set in numbers, and the images of the chosen features. */
  details() {
    const { controls: c, state } = this;
    const run = this.scene?.known[0];
    if (!run) return c.details.replaceChildren();
    const points = [...state.chosen];
    const listed = points.slice(0, LISTED_IMAGES).map((n) => {
      const title = `labels: ${name(run, run.labels_[n])}`;
      return el("figure", { title }, this.image(run, n, 44), el("figcaption", { textContent: shortened(name(run, run.labels_[n]), 9) }));
    });
    const count = points.length > LISTED_IMAGES ? `${points.length} features chosen, the first ${LISTED_IMAGES}:` : `${points.length} features chosen`;
    c.details.replaceChildren(
      state.labels.length ? this.table() : "",
      points.length ? el("div", { className: "nc-chosen" }, el("p", { textContent: run.images ? count : `${count}; their images are not there (run stage 01_dataset)` }), ...listed)
        : el("p", { textContent: "Click a point, a mean or a cell of a map, or Shift+drag over points: its numbers and images come here." }),
    );
    return undefined;
  }

  table() {
    const { labels } = this.state;
    const runs = this.scene.known.filter((run) => Math.max(...labels) < run.K);
    const columns = runs.map((run) => numbersOf(run, this.scene.placeOf(run)[0], labels));
    const rows = [...new Set(columns.flatMap((column) => Object.keys(column)))];
    return el("table", {},
      el("tr", {}, el("th", { textContent: runs.length ? name(runs[0], labels) : "" }), ...runs.map((run) => el("th", { textContent: run.label }))),
      ...rows.map((row) => el("tr", {}, el("td", { textContent: row }), ...columns.map((column) => el("td", { textContent: column[row] ?? "" })))));
  }
}
View.count = 0;

/** What is known of a label set at a checkpoint: name of each quantity -> its value in words. */
export function numbersOf(run, e, labels) {
  const { K, r } = run;
  const degrees = (cosine) => `${((Math.acos(Math.min(Math.max(cosine, -1), 1)) * 180) / Math.PI).toFixed(2)}°`;
  const at = run.sets_.findIndex((set) => set.join() === labels.join());
  const [i, j] = [labels[0], labels[labels.length - 1]];
  if (at < 0) {
    if (run.multi || labels.length !== 2) return { "training images": "none" };
    const cell = e * K * K + i * K + j;
    return { "angle between class means": degrees(run.gram_features[cell]), "angle between classifier rows": degrees(run.gram_weight[cell]), "the same in a simplex ETF": degrees(-1 / (K - 1)) };
  }
  const told = { "training images": String(run.counts[at]) };
  if (labels.length === 1) {
    const lengths = Array.from({ length: K }, (_, k) => Math.hypot(...run.means.subarray((e * K + k) * r, (e * K + k + 1) * r)));
    const mean = lengths.reduce((a, b) => a + b, 0) / K;
    return { ...told, "angle of class mean to classifier row": `${run.angles[e * K * K + i * (K + 1)].toFixed(2)}°`, "length of class mean (mean of all: 1)": (lengths[i] / mean).toFixed(3), bias: run.bias[e * K + i].toFixed(3) };
  }
  const [S, m] = [run.sets_.length, labels.length];
  const predicted = run.theory[`tag_wise_scale_${m}`];
  return {
    ...told,
    "angle to tag-wise average": `${run.set_angles[e * S + at].toFixed(2)}°`,
    "own scale": run.own_scales[e * S + at].toFixed(3),
    [`scale of all ${m}-label sets`]: run.scales[e * run.shapes.scales[1][1] + m - 1].toFixed(3),
    ...(predicted === undefined ? {} : { "scale predicted by theory": predicted.toFixed(3) }),
    "off the scaled average": `${(100 * run.off[e * S + at]).toFixed(1)} %`,
  };
}

/** A page without a kernel: all runs of a study lie in the book. */
export async function openBook(root, text) {
  const zipped = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const { header, arrays } = unpack(await new Response(stream).arrayBuffer());
  const pick = (runs) => runs.map(([run, seed]) => arrays[`${run}/${seed}`]);
  const values = { shown: { ...header.shown, runs: pick(header.shown.chosen) } };
  const listeners = new Set();
  const model = {
    get: (key) => values[key],
    set: (_, { study, runs }) => { values.shown = { ...header.shown, study, chosen: runs, runs: pick(runs) }; },
    save_changes: () => listeners.forEach((act) => act()),
    on: (_, act) => listeners.add(act),
    off: (_, act) => listeners.delete(act),
  };
  return new View(model, root);
}

export default {
  /** @param {{model: any, el: HTMLElement}} given */
  render({ model, el: root }) {
    const view = new View(model, root.appendChild(document.createElement("div")));
    return () => view.end();
  },
};
