// Unit tests of nclib/explore/explorer.js for node's own runner; tests/test_explore.py writes the payloads and runs it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const { module: path, folder, expected } = JSON.parse(readFileSync(process.env.NCLIB_EXPLORER));
const explorer = await import(path);
const read = (name) => explorer.readRun(readFileSync(`${folder}/${name}`));
const near = (a, b, tolerance) => {
  assert.equal(a.length, b.length);
  a.forEach((x, i) => assert.ok(Math.abs(x - b[i]) <= tolerance, `${i}: ${x} is not ${b[i]}`));
};
const THEME = { ink: "#222222", grey: "#6b6b6b", faint: "#dddddd", paper: "#ffffff", chosen: "#cc3311" };
const MAPS = { cosine: new Uint32Array(256).fill(1), angle: new Uint32Array(256).fill(2) };
const STATE = {
  at: 0, plane: "circle", corners: [0, 1, 2], turn: [0, 0], zoom: 1, pan: [0, 0], metric: "", scale: "figures", logEpochs: false,
  span: null, margins: "margins", theory: false, chosen: new Set(), labels: [], hover: null,
};
const makeCanvas = () => ({
  getContext: () => ({ createImageData: (w, h) => ({ data: new Uint8ClampedArray(4 * w * h) }), putImageData() {} }),
  toDataURL: () => "data:image/png;base64,",
});
const ruler = { width: (text, size) => 0.56 * size * text.length };
const svgOf = (runs, changes = {}) => {
  const pen = new explorer.SvgPen(ruler);
  const scene = new explorer.Scene(runs, { ...STATE, ...changes }, THEME, MAPS, makeCanvas);
  const views = explorer.viewsOf(runs).map((view, i) => ({ ...view, box: { x: 300 * (i % 4), y: 300 * Math.floor(i / 4), w: 290, h: 290 } }));
  scene.draw(pen, views, { x: 0, y: 0, w: 1200, h: 1200 });
  return { svg: pen.file({ w: 1200, h: 1200 }), scene };
};

test("arrays come as they were packed", () => {
  const bytes = readFileSync(`${folder}/pack`);
  const shifted = new Uint8Array(3 + bytes.length); // not at a multiple of 8 bytes
  shifted.set(bytes, 3);
  for (const given of [bytes, shifted.subarray(3), shifted.buffer.slice(3)]) {
    const { header, arrays, shapes } = explorer.unpack(given);
    assert.equal(header.text, "ä & <b>");
    assert.deepEqual([...arrays.small], [1, 2, 3]);
    assert.deepEqual([...arrays.large], [0.5, -(2 ** 100)]);
    assert.deepEqual(shapes.large, [1, 2]);
  }
});

test("planes are those of the figures, exactly", () => {
  for (const { name, plane, checkpoint, means, points, tips } of expected) {
    const seen = explorer.project(read(name), checkpoint, plane);
    const flat = (coordinates) => [...explorer.turned(coordinates, [0, 0])];
    near(flat(seen.means), means, 1e-5);
    near(flat(seen.tips), tips, 1e-5);
    near(flat(seen.points), points, 0.03); // stored in 8 bits: a pixel or two of a plane's 400
  }
});

test("axes are orthonormal, and a third one points out of the plane", () => {
  for (const name of ["multi", "single", "three"]) {
    const run = read(name);
    for (const plane of ["circle", "principal", [0, 1, 2]]) {
      const { axes } = explorer.frameOf(run, 1, plane);
      axes.forEach((a, i) => axes.forEach((b, j) => {
        assert.ok(Math.abs(a.reduce((sum, x, c) => sum + x * b[c], 0) - Number(i === j)) < 1e-6, `${name} ${plane} ${i} ${j}`);
      }));
    }
  }
});

test("nothing flips from one checkpoint to the next", () => {
  const run = read("multi");
  for (const plane of ["circle", "principal", [3, 1, 4]]) {
    for (let e = 4; e + 1 < run.E; e += 1) {
      const [a, b] = [explorer.project(run, e, plane).means, explorer.project(run, e + 1, plane).means];
      for (const axis of [0, 1]) {
        let likeness = 0;
        for (let i = axis; i < a.length; i += 3) likeness += a[i] * b[i];
        assert.ok(likeness > 0, `${plane} ${e} ${axis}`);
      }
    }
  }
});

test("between checkpoints everything is on its way", () => {
  const run = read("multi");
  assert.deepEqual(explorer.place([0, 5, 20], 8), [1, 0.2]);
  assert.deepEqual([explorer.place([0, 5, 20], -1), explorer.place([0, 5, 20], 99)], [[0, 0], [2, 0]]);
  const [a, b] = [0, 1].map((e) => explorer.project(run, e, "circle").means);
  near([...explorer.projectBetween(run, [0, 0.25], "circle").means], [...a].map((x, i) => x + 0.25 * (b[i] - x)), 1e-6);
  assert.deepEqual([...explorer.between(Float32Array.of(0, 1, 10, 21), 2, [0, 0.5])], [5, 11]);
});

test("turning by a right angle shows the third axis", () => {
  near([...explorer.turned([1, 2, 3], [Math.PI / 2, 0])], [3, 2], 1e-6);
  near([...explorer.turned([1, 2, 3], [0, Math.PI / 2])], [1, -3], 1e-6);
});

test("ticks are round numbers", () => {
  assert.deepEqual(explorer.logTicks(0.002, 50), [0.01, 0.1, 1, 10]);
  assert.deepEqual(explorer.logTicks(0.08, 4), [0.1, 0.3, 1, 3]);
  assert.deepEqual(explorer.linearTicks(0, 1, 4), [0, 0.25, 0.5, 0.75, 1]);
  assert.deepEqual(explorer.linearTicks(-0.2, 1.1, 5), [0, 0.5, 1]);
});

test("axes are those of the figures, and zeros lie at the edge of a logarithmic one", () => {
  const nc1 = { log: true, mayBeLog: true, floor: null, ceiling: null };
  const nc2 = { log: false, mayBeLog: true, floor: 0, ceiling: null };
  assert.equal(explorer.axisOf([3, 0.01], nc1, "figures").isLog, true);
  assert.equal(explorer.axisOf([3, 1], nc1, "figures").isLog, false);
  assert.equal(explorer.axisOf([3, 0.01], nc2, "figures").isLog, false);
  assert.equal(explorer.axisOf([3, 0.01], nc2, "figures").low, 0);
  const axis = explorer.axisOf([0.7, 0.1, 4e-16, NaN], nc2, "log");
  assert.ok(axis.isLog && axis.least === 0.1);
  const [zero, least, most] = [4e-16, 0.1, 0.7].map((value) => explorer.onAxis(axis, value));
  assert.ok(zero > 0 && zero < least && least < most && most < 1);
  assert.equal(explorer.axisOf([0, 0], nc2, "log").isLog, false);
  for (const known of [axis, explorer.axisOf([3, 1], nc2, "linear")]) {
    near([explorer.valueOn(known, explorer.onAxis(known, 0.4))], [0.4], 1e-9);
  }
});

test("every run has its views, and the ETF stands once beside them", () => {
  const kinds = explorer.viewsOf([read("multi"), read("multi")]).map(({ kind, at }) => `${kind}${at}`);
  assert.equal(new Set(kinds).size, kinds.length);
  for (const kind of ["metrics4", "plane0", "plane1", "means1", "classifier1", "angles1", "etf0", "margins0", "legend0"]) {
    assert.ok(kinds.includes(kind), kind);
  }
});

test("the picker finds every metric by the name it has in the figures", () => {
  const runs = [read("multi")];
  const titles = explorer.titlesOf(runs);
  assert.equal(titles.length, new Set(runs[0].series.map((s) => s.key.replace(/^\w+ /, ""))).size);
  assert.ok(titles.every((title) => !/[_$\\]/.test(title)), titles.join());
  const panels = explorer.panelsOf(runs, "");
  assert.deepEqual(panels[1].map(({ panel, name }) => `${panel} ${name}`), ["NC2 classifier", "NC2 means"]);
  assert.deepEqual(panels[4].map(({ title, name }) => `${title} ${name}`), ["IoU train", "IoU test"]);
  assert.equal(explorer.panelsOf(runs, "tag-wise scale C2")[4][0].metric, "tag_wise_scale");
  assert.equal(explorer.panelsOf([read("single")], "")[3][0].metric, "nc4");
});

test("every study can be drawn at every plane and theme", () => {
  for (const name of ["multi", "single", "three", "hundred", "empty"]) {
    for (const plane of ["circle", "principal", "three"]) {
      const { svg } = svgOf([read(name), read("multi")], { plane, theory: true, labels: [0, 1], chosen: new Set([1, 2]), margins: "released_margins" });
      assert.ok(!/NaN|undefined|Infinity/.test(svg), `${name} ${plane}`);
    }
    const { svg } = svgOf([read(name)], { at: 1, scale: "log", logEpochs: true });
    assert.ok(!/NaN|undefined|Infinity/.test(svg), name);
  }
});

test("what is missing is said, and points outside are counted", () => {
  assert.match(svgOf([read("empty")]).svg, /no features yet/);
  assert.deepEqual(read("empty").problems, ["gone: run stage 03_validate first."]);
  assert.match(svgOf([read("multi")], { zoom: 8 }).svg, /\d+ of \d+ points outside/);
  assert.doesNotMatch(svgOf([read("multi")], { zoom: 0.01 }).svg, /points outside/);
});

test("names are text in a saved drawing", () => {
  const { svg } = svgOf([read("hostile")]);
  assert.doesNotMatch(svg, /<img/);
  assert.match(svg, /&#60;img/);
});

test("only the features of three classes lie in their plane", () => {
  const run = read("multi");
  const { scene } = svgOf([run], { plane: "three", corners: [1, 4, 7] });
  const { members } = scene.hits.find((hit) => hit.kind === "plane");
  assert.ok(members.length > 3);
  assert.ok(members.every((n) => run.setLists[run.set_of[n]].every((k) => [1, 4, 7].includes(k))));
});

test("predictions stand beside what was measured", () => {
  const [line] = explorer.panelsOf([read("multi")], "tag-wise scale C2")[4];
  assert.equal(line.theory, read("multi").theory.tag_wise_scale_2);
  const dotted = (changes) => svgOf([read("multi")], changes).svg.split('stroke-dasharray="1 3"').length;
  assert.ok(dotted({ theory: true, metric: "tag-wise scale C2" }) > dotted({ metric: "tag-wise scale C2" }));
});

test("hovering tells what lies there", () => {
  const run = read("multi");
  const { scene } = svgOf([run], { at: 12 });
  const told = (kind, place) => {
    const hit = scene.hits.find((found) => found.kind === kind);
    return hit.words(hit.box.x + place[0] * hit.box.w, hit.box.y + place[1] * hit.box.h).join("\n");
  };
  assert.match(told("metrics", [0.5, 0.5]), /^NC1.*, epoch 60\nlearned, seed 0: 0\.0/);
  assert.match(told("map", [0.11, 0.31]), /^1 & 3\ncosine -0\.\d{4}$/);
  assert.match(told("margins", [0.5, 0.5]), /^learned, seed 0: 50 % lie below/);
  const plane = scene.hits.find((hit) => hit.kind === "plane");
  const at = (places, i) => plane.words(places[2 * i], places[2 * i + 1]).join("\n");
  assert.equal(at(plane.screen.means, 4), "mean of 4");
  const alone = run.set_of.findIndex((s) => run.setLists[s].length === 2);
  const [x, y] = [plane.screen.points[2 * alone], plane.screen.points[2 * alone + 1]];
  assert.match(plane.words(x, y).join("\n"), /^(mean of|labels: \d & \d\npredicted: \d & \d\nseveral labels)/);
});

test("numbers of a label set", () => {
  const [multi, single] = [read("multi"), read("single")];
  assert.equal(explorer.numbersOf(multi, 12, [3, 7])["training images"], "4");
  assert.ok(Math.abs(explorer.numbersOf(multi, 12, [3, 7])["scale predicted by theory"] - multi.theory.tag_wise_scale_2) < 1e-3);
  assert.match(explorer.numbersOf(multi, 12, [3])["class mean to classifier row [°]"], /^\d/);
  assert.deepEqual(explorer.numbersOf(multi, 12, [1, 2, 3]), { "training images": "0" });
  assert.match(explorer.numbersOf(single, 3, [2, 5])["cosine of means | rows | ETF"], / \| -0\.111$/);
});

test("texts are cut to fit", () => {
  assert.equal(explorer.shortened("automobile", 6), "autom…");
  assert.deepEqual([0.123456, 1e-7, 0, NaN].map(explorer.short), ["0.123", "1.0e-7", "0", "–"]);
});
