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
const MAPS = { cosine: ["#ffffff", "#000088"], angle: ["#000000", "#ffff00"] };
const STATE = {
  at: 0, plane: "circle", corners: [0, 1, 2], turn: [0, 0], zoom: 1, pan: [0, 0], metric: "", scale: "figures", logEpochs: false,
  span: null, margins: "cosine", theory: false, chosen: new Set(), labels: [], hover: null,
};
const canvas = () => ({
  getContext: () => ({ createImageData: (w, h) => ({ data: new Uint8ClampedArray(4 * w * h) }), putImageData() {} }),
  toDataURL: () => "data:image/png;base64,",
});
const svgOf = (runs, changes = {}, width = 1200) => {
  const pen = new explorer.SvgPen(width, 800);
  const scene = new explorer.Scene(runs, { ...STATE, ...changes }, MAPS, THEME, canvas);
  scene.draw(pen, width);
  return { svg: pen.svg, scene };
};

test("arrays come as they were packed", () => {
  const { header, arrays } = explorer.unpack(readFileSync(`${folder}/pack`));
  assert.equal(header.text, "ä & <b>");
  assert.deepEqual([...arrays.small], [1, 2, 3]);
  assert.deepEqual([...arrays.large], [0.5, -1e300]);
  const shifted = new Uint8Array(3 + readFileSync(`${folder}/pack`).length); // not at a multiple of 8 bytes
  shifted.set(readFileSync(`${folder}/pack`), 3);
  assert.deepEqual([...explorer.unpack(shifted.subarray(3)).arrays.large], [0.5, -1e300]);
});

test("planes are those of the figures, exactly", () => {
  for (const { name, plane, checkpoint, means, points, tips } of expected) {
    const seen = explorer.project(read(name), checkpoint, plane);
    const flat = (coordinates) => [...explorer.turned(coordinates, [0, 0])];
    near(flat(seen.means), means, 1e-5);
    near(flat(seen.tips), tips, 1e-5);
    near(flat(seen.points), points, 1e-3); // stored in 16 bits
  }
});

test("axes are orthonormal, and a third one points out of the plane", () => {
  for (const name of ["multi", "single", "three"]) {
    const run = read(name);
    for (const plane of ["circle", "principal", [0, 1, 2]]) {
      const { axes } = explorer.frameOf(run, 1, plane);
      if (name === "three") axes.pop(); // all of its features lie in the plane
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
  assert.equal(explorer.axisOf([3, 0.01], nc1, "figures").log, true);
  assert.equal(explorer.axisOf([3, 1], nc1, "figures").log, false);
  assert.equal(explorer.axisOf([3, 0.01], nc2, "figures").log, false);
  assert.equal(explorer.axisOf([3, 0.01], nc2, "figures").low, 0);
  const axis = explorer.axisOf([0.7, 0.1, 4e-16, NaN], nc2, "log");
  assert.ok(axis.log && axis.least === 0.1);
  const [zero, least, most] = [4e-16, 0.1, 0.7].map((value) => explorer.onAxis(axis, value));
  assert.ok(zero > 0 && zero < least && least < most && most < 1);
  assert.equal(explorer.axisOf([0, 0], nc2, "log").log, false);
});

test("panels lie beside each other, within the width", () => {
  for (const runs of [1, 2]) {
    for (const width of [900, 1130, 1186, 1499, 1500, 1750, 2400]) {
      const found = explorer.layout(width, runs);
      const boxes = [...found.metrics, ...found.planes, ...found.maps.map((map) => map.box), found.margins, found.legend];
      boxes.forEach((a, i) => {
        assert.ok(a.w > 30 && a.h > 30 && a.x >= 0 && a.x + a.w <= width + 1 && a.y + a.h <= found.height + 1, `${width} ${runs} ${i}`);
        boxes.slice(0, i).forEach((b, j) => {
          const apart = a.x + a.w <= b.x + 1 || b.x + b.w <= a.x + 1 || a.y + a.h <= b.y + 1 || b.y + b.h <= a.y + 1;
          assert.ok(apart, `${width} ${runs}: ${i} covers ${j}`);
        });
      });
      assert.equal(found.maps.length, runs === 1 ? 4 : 7);
    }
  }
  assert.ok(explorer.layout(1186, 1).height < 580); // with the controls, what JupyterLab leaves of 768 pixels
});

test("the picker finds every metric by the name it has in the figures", () => {
  const runs = [read("multi")];
  const names = explorer.metricNames(runs);
  assert.equal(names.size, new Set(runs[0].series.map((s) => `${s.metric} ${s.labels ?? ""}`)).size);
  assert.equal(names.get("IoU"), "soft_iou ");
  assert.ok([...names.keys()].every((title) => !/[_$\\]/.test(title)), [...names.keys()].join());
  assert.equal(explorer.panelsOf(runs, "")[4].title, "IoU");
  assert.equal(explorer.panelsOf(runs, "tag_wise_scale 2")[4].lines[0].labels, 2);
  assert.equal(explorer.panelsOf([read("single")], "")[3].lines[0].metric, "nc4");
});

test("every study can be drawn at every plane and theme", () => {
  for (const name of ["multi", "single", "three", "hundred", "empty"]) {
    for (const plane of ["circle", "principal", "three"]) {
      const { svg } = svgOf([read(name), read("multi")], { plane, theory: true, labels: [0, 1], chosen: new Set([1, 2]), margins: "released" });
      assert.ok(!/NaN|undefined|Infinity/.test(svg), `${name} ${plane}`);
    }
    const { svg } = svgOf([read(name)], { at: 1, scale: "log", logEpochs: true }, 1700);
    assert.ok(!/NaN|undefined|Infinity/.test(svg), name);
  }
});

test("what is missing is said, and points outside are counted", () => {
  assert.match(svgOf([read("empty")]).svg, /run stage 03_validate/);
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
  const members = scene.hits.find((hit) => hit.kind === "plane").groups.flatMap((group) => group.members);
  assert.ok(members.length > 3);
  assert.ok(members.every((n) => run.labels_[n].every((k) => [1, 4, 7].includes(k))));
});

test("predictions are drawn at their values", () => {
  const run = read("multi");
  const { scene } = svgOf([run], { theory: true, metric: "tag_wise_scale 2" });
  assert.deepEqual(scene.predictions(explorer.panelsOf([run], "tag_wise_scale 2")[4]), [{ run: 0, value: run.theory.tag_wise_scale_2 }]);
});

test("numbers of a label set", () => {
  const [multi, single] = [read("multi"), read("single")];
  assert.equal(explorer.numbersOf(multi, 12, [3, 7])["training images"], "4");
  assert.match(explorer.numbersOf(multi, 12, [3])["angle of class mean to classifier row"], /^\d+\.\d\d°$/);
  assert.equal(explorer.numbersOf(multi, 12, [1, 2, 3])["training images"], "none");
  assert.equal(explorer.numbersOf(single, 3, [2, 5])["the same in a simplex ETF"], "96.38°");
});

test("colors can be read on both papers", () => {
  for (const color of ["#0173b2", "#de8f05", "#ece133", "#000000", "#ffffff"]) {
    for (const paper of ["#ffffff", "#111111"]) assert.ok(explorer.contrast(explorer.readable(color, paper), paper) >= 4.5);
  }
  assert.equal(new Set(Array.from({ length: 100 }, (_, k) => explorer.classColor(k, 100))).size, 100);
  assert.deepEqual(explorer.mapColor([[0, 0, 0], [100, 0, 50]], 0.5), [50, 0, 25]);
});

test("texts are cut and broken to fit", () => {
  assert.equal(explorer.shortened("automobile", 6), "autom…");
  assert.deepEqual(explorer.wrapped("/a/very/long/path is missing", 10), ["/a/very/lo", "ng/path is", "missing"]);
  assert.deepEqual([0.123456, 1e-7, 0, NaN].map(explorer.short), ["0.123", "1.0e-7", "0", "–"]);
});
