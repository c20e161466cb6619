// Parallel coordinates of the complete trials, whose kept ranges filter the table on the server.

import { counted } from "../numbers.js";
import { Parallel } from "../parallel.js";
import { axis } from "./parameters.js";

const HELP = "Drag along an axis to keep a range; a click on it lets go. Colours: by rank, the best on top.";

// What a filter calls a hyperparameter: `value` is the objective.
const called = (name) => (name === "value" || name.startsWith("params.") ? `params.${name}` : name);

export function brush(card, filtered) {
  const parallel = new Parallel(card.querySelector("figure"));
  const clear = card.querySelector("#unbrush");
  parallel.addEventListener("brush", ({ detail }) => {
    const url = new URL(location.href);
    for (const name of ["filter", "cursor", "where", "low", "high", "exactly"]) {
      url.searchParams.delete(name);
    }
    for (const one of detail.wanted) {
      const name = one.goal ? "value" : called(one.name);
      for (const kept of one.choices ?? [`${one.low}..${one.high}`]) {
        url.searchParams.append("filter", `${name}:${kept}`);
      }
    }
    window.history.replaceState(null, "", url);
    clear.hidden = !detail.wanted.length;
    parallel.say(detail.wanted.length
      ? `${detail.kept} of the lines lie inside; the table shows their trials.` : HELP);
    filtered();
  });
  clear.addEventListener("click", () => parallel.clear());
  return (finished) => {
    if (parallel.brushes.size) return; // what a hand holds does not move
    const { complete } = finished;
    const axes = finished.axes.map(axis);
    const rows = complete.map((row) => [...finished.axes.map(({ name }) => row.params[name]),
      row.values[0]]);
    parallel.figure.dataset.empty = "";
    parallel.set([...axes, { label: finished.metric }], rows, finished.minimize[0]);
    parallel.say(rows.length ? `${counted(rows.length, "complete trial")}. ${HELP}` : "No trial is complete.");
  };
}
