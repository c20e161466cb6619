// Compared trials: their curves and learning rates, overlaid in the colours of the table's head.

import { Curves } from "./curves.js";

const page = document.getElementById("compare");
const at = (id) => document.getElementById(id);
const numbers = page.dataset.numbers.split(",").map(Number);

function look(curve) {
  const place = numbers.indexOf(curve.number);
  return { tone: place % 8, width: 2, dash: place > 7 ? [6, 4] : [] };
}

const options = { numbers, look };
const learning = new Curves(at("curves"), page.dataset.study, { ...options, metric: at("metric").value });
const rates = new Curves(at("rates"), page.dataset.study, { ...options, metric: "lr", log: true });
at("metric").addEventListener("change", () => learning.choose({ metric: at("metric").value }));
at("log").addEventListener("change", () => learning.choose({ log: at("log").checked }));
at("rate-log").addEventListener("change", () => rates.choose({ log: at("rate-log").checked }));
at("unit").addEventListener("change", () => {
  for (const one of [learning, rates]) one.choose({ x: at("unit").value });
});
learning.fetch();
rates.fetch();
