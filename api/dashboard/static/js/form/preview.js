// What the server says of the study as it stands: its cost, ten configurations, their learning rates.

import { Chart } from "../chart.js";
import { told } from "../curves.js";
import { counted, duration, number } from "../numbers.js";

export function preview(place) {
  const cost = place.querySelector("#cost");
  const samples = place.querySelector("#samples");
  const figure = place.querySelector("#sample-rates");
  const chart = new Chart(figure, { x: { label: "share of the training", domain: [0, 1] },
    y: { label: "learning rate", kind: "log" } });

  function wrong(words) {
    cost.textContent = words;
    samples.replaceChildren();
    chart.set({ series: [] });
    chart.say("");
  }

  function show(found) {
    const size = found.grid_size === null ? "a continuum" : counted(found.grid_size, "point");
    const parts = [found.trials === null ? "Trials without a bound" : counted(found.trials, "trial"),
      found.total_epochs === null ? null : `at most ${number(found.total_epochs)} ${found.total_epochs === 1 ? "epoch" : "epochs"} in all`,
      found.device_seconds === null ? null
        : `about ${duration(found.device_seconds)} of device time by earlier trials of this task`];
    cost.textContent = `${parts.filter(Boolean).join(", ")}; the space is ${size}. Ten samples:`;
    samples.replaceChildren(table(found.samples));
    const series = found.rates.map((rates, index) => ({ kind: "line", key: index, tone: index,
      label: `sample ${index + 1}`, dash: index > 7 ? [6, 4] : [],
      points: rates.map((rate, at) => [at / (rates.length - 1), rate]),
      details: () => told(found.samples[index]) })).filter((one) => one.points.length);
    chart.set({ series });
    chart.say(series.length ? "How the learning rate of each sample goes over its training; a rate of 0 "
      + "is below the frame." : "");
  }
  return { show, wrong };
}

function table(samples) {
  const names = [...new Set(samples.flatMap(Object.keys))];
  const made = document.createElement("table");
  const caption = made.createCaption();
  caption.className = "visually-hidden";
  caption.textContent = "Ten configurations that the study might try";
  const head = made.createTHead().insertRow();
  for (const name of names) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = made.createTBody();
  for (const sample of samples) {
    const row = body.insertRow();
    for (const name of names) row.insertCell().textContent = number(sample[name] ?? null);
  }
  return made;
}
