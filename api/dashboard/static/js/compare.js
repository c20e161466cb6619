// Compared trials: their curves, overlaid.

import { Chart } from "./chart.js";
import { json } from "./pieces.js";

const page = document.getElementById("compare");
const figure = page.querySelector("figure");
const chart = new Chart(figure, { xLabel: "step", yLabel: figure.dataset.metric, integerX: true });
const query = new URLSearchParams({ metric: figure.dataset.metric });
for (const trial of page.dataset.numbers.split(",")) query.append("numbers", trial);

const found = await json(`/api/v1/studies/${page.dataset.study}/curves?${query}`);
const order = page.dataset.numbers.split(",").map(Number);
chart.set(found.curves.map((curve) => ({
  key: curve.trial_id,
  label: `trial ${curve.number}`,
  tone: order.indexOf(curve.number), // as in the table's head
  width: 2,
  points: curve.steps.map((step, place) => [step, Number(curve.values[place])]),
})));
