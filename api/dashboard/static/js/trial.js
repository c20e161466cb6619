// One trial: a chart for each metric, growing while it runs.

import { Chart } from "./chart.js";
import { json, swap, throttled } from "./pieces.js";

const page = document.getElementById("trial");
const id = page.dataset.trial;
const root = document.body.dataset.root;
const place = document.getElementById("charts");
const template = document.getElementById("chart");
const charts = new Map();
const points = new Map(); // metric -> [[step, value], ...]
let last = 0;

const more = throttled(async () => {
  const found = await json(`/api/v1/trials/${id}/measurements?after_step=${last}`);
  for (const { step, metrics } of found) {
    last = Math.max(last, step);
    for (const [name, value] of Object.entries(metrics)) {
      if (!points.has(name)) points.set(name, []);
      points.get(name).push([step, value === null ? NaN : Number(value)]);
    }
  }
  document.getElementById("no-curves").hidden = points.size > 0;
  let tone = 0;
  for (const [name, line] of points) {
    if (!charts.has(name)) {
      const card = template.content.cloneNode(true);
      card.querySelector("h2").textContent = name;
      const figure = card.querySelector("figure");
      figure.dataset.label = `${name} by step`;
      place.append(card);
      charts.set(name, new Chart(figure, { xLabel: "step", yLabel: name, integerX: true }));
    }
    charts.get(name).set([{ key: name, label: name, tone, width: 2, points: line }]);
    tone += 1;
  }
}, 700);

more();
if (page.dataset.finished !== "yes") {
  const stream = new EventSource(`${root}/api/v1/studies/${page.dataset.study}/events`);
  stream.addEventListener("message", (message) => {
    const event = JSON.parse(message.data);
    const mine = event.trial_id === Number(id) || (event.data.trials ?? []).includes(Number(id));
    if (mine) {
      more();
      swap(page.querySelector('[data-live="head"]'));
    }
    if (event.kind === "study.state" && event.data.state !== "running") stream.close();
  });
}
