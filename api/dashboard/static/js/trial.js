// One trial: a chart for each kind of number it reports, and what its script prints, both growing
// while it runs.

import { Chart } from "./chart.js";
import { listen } from "./live.js";
import { follow } from "./log.js";
import { json, swap, text, throttled } from "./pieces.js";

const page = document.getElementById("trial");
const id = page.dataset.trial;
const at = (name) => document.getElementById(name);
const charts = new Map(); // title -> chart
const points = []; // measurements, in order
const nothing = at("no-curves").textContent;
let trouble = ""; // why the last ones could not be read; it stands until some are
const UNITS = { step: "step", epochs: "epochs", samples: "samples", seconds: "device seconds" };
const ORDER = ["loss", "accuracy", "lr", "grad_norm", "noise_scale"];
const TITLES = { lr: "learning rate", grad_norm: "gradient norm", noise_scale: "gradient noise scale" };
const SPREAD = new Set(["lr", "grad_norm", "noise_scale"]); // over orders of magnitude

// A metric whose interval is measured too, as NAME_low and NAME_high, is a line in a band.
const ENDS = ["low", "high"];
const banded = (names) => names.filter((name) => ENDS.every((end) => names.includes(`${name}_${end}`)));

// val_loss and train_loss share a chart; other metrics have one each.
function grouped(names) {
  const groups = new Map();
  for (const name of names) {
    const base = name.replace(/^(val|train|test)_/, "");
    groups.set(base, [...(groups.get(base) ?? []), name]);
  }
  const goal = page.dataset.metric.replace(/^(val|train|test)_/, "");
  const rank = (base) => (base === goal ? -1 : ORDER.includes(base) ? ORDER.indexOf(base) : ORDER.length);
  return [...groups].sort((a, b) => rank(a[0]) - rank(b[0]));
}

function place({ step, samples, seconds, metrics }) {
  const unit = at("unit").value;
  if (unit === "epochs") return metrics.epoch ?? step * Number(page.dataset.perStep);
  return { step, samples, seconds }[unit];
}

function drawn(base, names, bands) {
  const title = TITLES[base] ?? base;
  if (!charts.has(title)) {
    const card = at("chart").content.cloneNode(true);
    card.querySelector("h3").textContent = title;
    const figure = card.querySelector("figure");
    figure.dataset.label = `${title} while it trained`;
    const legend = card.querySelector("ul");
    if (names.length < 2 && !bands.length) legend.remove();
    names.forEach((name, tone) => {
      const item = text("li", bands.includes(name) ? `${name}, shaded from ${name}_low to ${name}_high` : name);
      item.prepend(text("span", "", `stroke tone-${tone}`));
      legend.append(item);
    });
    at("charts").append(card);
    charts.set(title, new Chart(figure));
  }
  const placed = points.filter((point) => Number.isFinite(place(point)));
  const series = names.map((name, tone) => ({ kind: "line", key: name, label: name, tone, width: 2,
    points: placed.map((point) => [place(point), Number(point.metrics[name] ?? NaN)]) }));
  for (const name of bands) {
    const ends = ENDS.map((end) => `${name}_${end}`);
    const known = placed.filter(({ metrics }) => ends.some((end) => metrics[end] !== undefined && metrics[end] !== null));
    series.unshift({ kind: "band", key: `${name} band`, tone: names.indexOf(name), mute: true,
      points: known.map((point) => [place(point), ...ends.map((end) => point.metrics[end] ?? null)]) });
  }
  const log = SPREAD.has(base) !== at("log").checked;
  charts.get(title).set({ series, x: { label: UNITS[at("unit").value], integer: at("unit").value === "step" },
    y: { label: names.length > 1 ? base : names[0], kind: log ? "log" : "linear" } });
}

function draw() {
  const names = [...new Set(points.flatMap((point) => Object.keys(point.metrics)))]
    .filter((name) => name !== "epoch");
  at("no-curves").textContent = trouble || nothing;
  at("no-curves").hidden = points.length > 0 && !trouble;
  const bands = banded(names);
  const ends = new Set(bands.flatMap((name) => ENDS.map((end) => `${name}_${end}`)));
  for (const [base, group] of grouped(names.filter((name) => !ends.has(name)))) {
    drawn(base, group, bands.filter((name) => group.includes(name)));
  }
}

const more = throttled(async () => {
  try {
    const found = await json(`/api/v1/trials/${id}/measurements?after_step=${points.at(-1)?.step ?? 0}`);
    points.push(...found);
    trouble = "";
  } catch (error) {
    trouble = `The curves cannot be read: ${error.message}. Reload the page to try again.`;
  }
  draw();
}, 700);

for (const control of ["unit", "log"]) at(control).addEventListener("change", draw);
more();
const log = follow(at("log-card"));

if (page.dataset.finished !== "yes") {
  const pieces = throttled(() => swap(...page.querySelectorAll("[data-live]")), 700);
  listen(page.dataset.study, Number(page.dataset.event), (event) => {
    const mine = event.trial_id === Number(id) || (event.data.trials ?? []).includes(Number(id));
    if (!mine) return;
    if (event.kind === "trial.state" && event.data.state === "waiting") points.length = 0; // anew
    more();
    pieces();
    log();
  });
}
