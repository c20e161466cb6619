// One study, live: the stream of events says what changed, and only that is fetched.

import { Chart } from "./chart.js";
import { number } from "./numbers.js";
import { Parallel } from "./parallel.js";
import { announce, json, swap, throttled, toast } from "./pieces.js";
import { forms } from "./snippets.js";

const page = document.getElementById("study");
const id = page.dataset.study;
const root = document.body.dataset.root;
const minimize = page.dataset.minimize === "yes";
const piece = (name) => page.querySelector(`[data-live="${name}"]`);

// Learning curves

const curves = new Map(); // trial id -> curve
const changed = new Set(); // trial ids whose curves have grown
const numbers = new Map(); // trial id -> trial number
let everything = true;
let total = 0;

const metric = document.getElementById("metric");
const log = document.getElementById("log");
const figure = document.getElementById("curves");
const chart = new Chart(figure, { xLabel: "step", integerX: true });

const fetchCurves = throttled(async () => {
  const query = new URLSearchParams({ metric: metric.value });
  const unknown = [...changed].some((trial) => !numbers.has(trial));
  if (!everything && !unknown) {
    if (!changed.size) return;
    for (const trial of changed) query.append("numbers", numbers.get(trial));
  } else if (everything) curves.clear();
  const asked = metric.value;
  everything = false;
  changed.clear();
  try {
    const found = await json(`/api/v1/studies/${id}/curves?${query}`);
    if (asked !== metric.value) return;
    total = found.trials;
    for (const curve of found.curves) {
      numbers.set(curve.trial_id, curve.number);
      curves.set(curve.trial_id, curve);
    }
    drawCurves();
  } catch (error) {
    figure.querySelector("figcaption").textContent = `The curves cannot be read: ${error.message}`;
  }
}, 800);

function drawCurves() {
  const bestId = Number(document.querySelector("tr.best")?.dataset.id);
  const series = [...curves.values()].filter((curve) => curve.steps.length).map((curve) => ({
    key: curve.trial_id,
    label: `trial ${curve.number} (${curve.paused ? "paused" : curve.state})`,
    href: `${root}/trials/${curve.trial_id}`,
    tone: curve.trial_id === bestId ? 1 : curve.state === "running" && !curve.paused ? 2 : 0,
    width: curve.trial_id === bestId ? 2.5 : 1.5,
    dim: curve.state === "pruned" || curve.state === "fail" || curve.paused,
    points: curve.steps.map((step, index) => [step, Number(curve.values[index])]),
  }));
  chart.set(series, { yLabel: metric.value, logY: log.checked });
  const shown = series.length;
  const left = total > curves.size ? `; of ${total} trials those that run, the best and the newest` : "";
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const beyond = Number(figure.dataset.beyond);
    figure.querySelector("figcaption").textContent = shown
      ? `${shown} curves${left}. Blue: complete, green: running, orange: best; grey: set aside, `
        + `pruned or failed.${beyond ? ` ${beyond} points lie beyond the frame.` : ""}`
      : "";
  }));
}

metric.addEventListener("change", () => {
  everything = true;
  fetchCurves();
});
log.addEventListener("change", drawCurves);

// History, parallel coordinates, importance: finished trials only

const history = new Chart(document.getElementById("history"), { xLabel: "trial", integerX: true });
const parallel = new Parallel(document.getElementById("parallel"));
let axesDrawn = "";

const fetchOverview = throttled(async () => {
  try {
    const found = await json(`/api/v1/studies/${id}/overview`);
    drawHistory(found);
    drawParallel(found);
  } catch (error) {
    document.querySelector("#history figcaption").textContent = `Cannot be read: ${error.message}`;
  }
}, 1500);

function drawHistory(found) {
  const points = (states) => found.numbers.map((trial, index) => [trial, found.values[index],
    `trial ${trial} (${found.states[index]})`, found.ids[index]])
    .filter((point, index) => states.includes(found.states[index]) && point[1] !== null);
  const best = found.best.map(([trial, value]) => [trial, value]);
  const last = found.numbers.at(-1);
  if (best.length && last > best.at(-1)[0]) best.push([last, best.at(-1)[1]]);
  history.set([
    { key: "pruned", label: "pruned", kind: "points", dim: true, points: points(["pruned"]) },
    { key: "complete", label: "complete", kind: "points", tone: 0, points: points(["complete"]) },
    { key: "best", label: "best so far", kind: "step", tone: 1, width: 2, points: best },
  ], { yLabel: found.metric });
  const shown = found.ids.length;
  document.querySelector("#history figcaption").textContent = found.finished
    ? `${found.finished} finished trials${shown < found.finished ? `, ${shown} of them drawn` : ""}. `
      + `Blue: complete, grey: pruned; orange: the best so far${best.length
        ? `, now ${number(best.at(-1)[1])}` : ""}.` : "";
}

function drawParallel(found) {
  const axes = [...found.axes.map(({ name, log: logged, choices }) => ({ name, log: logged, choices })),
    { name: found.metric }];
  const rows = [];
  found.ids.forEach((_, index) => {
    if (found.states[index] === "complete" && found.values[index] !== null) {
      rows.push([...found.axes.map(({ name }) => found.params[name][index]), found.values[index]]);
    }
  });
  const section = parallel.figure.closest("section");
  section.hidden = rows.length < 2;
  if (section.hidden || parallel.brushes.size) return; // what a hand holds does not move
  parallel.set(axes, rows, minimize);
  axesDrawn = found.metric;
}

parallel.addEventListener("brush", ({ detail }) => {
  const url = new URL(location.href);
  url.searchParams.delete("filter");
  url.searchParams.delete("cursor");
  for (const one of detail.wanted) {
    const name = one.name === axesDrawn ? "value" : one.name;
    const kept = one.choices ? one.choices.join("|") : `${one.low}..${one.high}`;
    url.searchParams.append("filter", `${name}:${kept}`);
  }
  window.history.replaceState(null, "", url);
  document.getElementById("unbrush").hidden = !detail.wanted.length;
  parallel.figure.querySelector("figcaption").textContent = detail.wanted.length
    ? `${detail.kept} trials lie inside; the table shows them.`
    : "Drag along an axis to keep a range; a click on it lets go.";
  swap(piece("table"));
});
document.getElementById("unbrush").addEventListener("click", () => parallel.clear());

const fetchImportance = throttled(async () => {
  const place = document.getElementById("importance");
  try {
    const found = await json(`/api/v1/studies/${id}/importances`);
    const entries = Object.entries(found.importances);
    if (!entries.length) {
      place.replaceChildren(text("p", found.reason ?? "Nothing to say yet.", "muted"));
      return;
    }
    const list = document.createElement("div");
    list.className = "bars";
    for (const [name, share] of entries) {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      bar.setAttribute("aria-hidden", "true");
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      rect.setAttribute("width", `${(100 * share).toFixed(2)}%`);
      rect.setAttribute("height", "100%");
      rect.setAttribute("rx", "2");
      bar.append(rect);
      list.append(text("span", name), bar, text("span", `${Math.round(100 * share)} %`, "num"));
    }
    place.replaceChildren(list, text("p", `From ${found.trials} complete trials, by ${found.evaluator}.`, "small muted"));
  } catch (error) {
    place.replaceChildren(text("p", `Cannot be computed: ${error.message}`, "muted"));
  }
}, 15_000);

function text(tag, content, className = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  element.className = className;
  return element;
}

// The stream

const refresh = throttled(() => {
  swap(piece("head"));
  swap(piece("table"));
}, 1000);

function listen() {
  const stream = new EventSource(`${root}/api/v1/studies/${id}/events?after=${page.dataset.event}`);
  stream.addEventListener("message", (message) => {
    const event = JSON.parse(message.data);
    const ids = event.data.trials ?? [];
    if (event.data.numbers) ids.forEach((trial, index) => numbers.set(trial, event.data.numbers[index]));
    if (event.trial_id && event.data.number !== undefined) numbers.set(event.trial_id, event.data.number);
    if (event.kind === "trial.measured") ids.forEach((trial) => changed.add(trial));
    if (event.kind === "trial.state") {
      changed.add(event.trial_id);
      if (event.data.state === "complete" || event.data.state === "pruned") {
        fetchOverview();
        fetchImportance();
        announce(`Trial ${event.data.number} is ${event.data.state}.`);
      }
    }
    refresh();
    fetchCurves();
    if (event.kind === "study.state" && ["completed", "cancelled", "failed"].includes(event.data.state)) {
      stream.close();
      page.dataset.finished = "yes";
      everything = true;
      fetchCurves();
      fetchOverview();
      announce(`The study is ${event.data.state}.`);
    }
    if (event.kind === "study.deleted") location.href = `${root}/`;
  });
}

if (page.dataset.finished !== "yes") listen();
fetchCurves();
fetchOverview();
fetchImportance();

// Comparing

const picked = new Set();
const compare = document.getElementById("compare");
page.addEventListener("change", (event) => {
  if (!event.target.matches("input.pick")) return;
  if (event.target.checked) picked.add(event.target.value);
  else picked.delete(event.target.value);
  compare.disabled = picked.size < 2;
  compare.textContent = picked.size < 2 ? "Compare" : `Compare ${picked.size}`;
});
document.addEventListener("swapped", () => {
  for (const box of page.querySelectorAll("input.pick")) box.checked = picked.has(box.value);
  drawCurves();
});
compare.addEventListener("click", () => {
  location.href = `${root}/studies/${id}/compare?trials=${[...picked].join(",")}`;
});

// Copying the study

for (const button of page.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const { spec } = await json(`/api/v1/studies/${id}`);
    await navigator.clipboard.writeText(forms[button.dataset.copy](spec));
    toast("Copied.");
  });
}
