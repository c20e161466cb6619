// Curves of many trials in one chart: fetched once, then only those that grew.

import { Chart } from "./chart.js";
import { counted, number } from "./numbers.js";
import { json, throttled } from "./pieces.js";
import { trouble } from "./surface.js";

const root = document.body.dataset.root;
const MOST = 300; // curves that the server picks
const UNITS = { step: "step", epochs: "epochs", samples: "samples", seconds: "device seconds" };

// A configuration in a few short lines.
export function told(params) {
  const parts = Object.entries(params).map(([name, value]) => `${name} ${number(value)}`);
  const lines = [];
  for (let at = 0; at < parts.length; at += 2) lines.push(parts.slice(at, at + 2).join(" · "));
  return lines;
}

export class Curves {
  // Options: metric, x, log; `numbers`, trials to keep to; `first`, the address of the first fetch;
  // `look(curve)`, what a series of it gets besides its points.
  constructor(figure, study, options) {
    this.chart = new Chart(figure, { x: { label: "step" }, y: { label: options.metric } });
    this.study = study;
    this.options = { x: "step", log: false, numbers: null, first: null, look: () => ({}), ...options };
    this.known = new Map(); // trial id -> curve
    this.numbers = new Map(); // trial id -> trial number
    this.grown = new Set(); // trial ids whose curves have grown
    this.whole = true;
    this.trials = 0;
    this.shown = null; // what the curves at hand are of
    this.fetch = throttled(() => this.read(), 1000);
  }

  // Takes another metric, unit or scale; only the scale needs nothing from the server.
  choose(options) {
    Object.assign(this.options, options);
    if (Object.keys(options).every((name) => name === "log")) {
      this.draw();
      return;
    }
    this.again();
  }

  // Reads all of them again.
  again() {
    this.whole = true;
    this.fetch();
  }

  // An event of the study: which curves it lets grow.
  heard(event) {
    const ids = event.data.trials ?? [];
    event.data.numbers?.forEach((trial, index) => this.numbers.set(ids[index], trial));
    if (event.kind === "trial.measured") ids.forEach((trial) => this.grown.add(trial));
    if (event.kind === "trial.state") {
      this.numbers.set(event.trial_id, event.data.number);
      this.grown.add(event.trial_id);
    }
    if (this.grown.size) this.fetch();
  }

  async read() {
    const { metric, x } = this.options;
    const query = new URLSearchParams({ metric, x });
    const unknown = [...this.grown].some((trial) => !this.numbers.has(trial));
    const all = this.whole || unknown || this.known.size > 2 * MOST;
    if (!all && !this.grown.size) return;
    const wanted = this.options.numbers
      ?? (all ? [] : [...this.grown].map((trial) => this.numbers.get(trial)));
    for (const trial of wanted) query.append("numbers", trial);
    this.whole = false;
    this.grown.clear();
    try {
      const first = this.options.first;
      this.options.first = null;
      const found = await json(first ?? `/api/v1/studies/${this.study}/curves?${query}`);
      if (metric !== this.options.metric || x !== this.options.x) return; // chosen anew meanwhile
      if (all) this.known.clear();
      this.shown = { metric, x };
      trouble(this.chart.figure, "");
      this.trials = found.trials;
      for (const curve of found.curves) {
        this.numbers.set(curve.trial_id, curve.number);
        this.known.set(curve.trial_id, curve);
      }
      this.thinned = found.shown < found.measured || (!all && this.thinned);
      this.draw();
    } catch (error) {
      this.whole = true; // so that the next news brings what this one lost
      trouble(this.chart.figure,
        `The curves cannot be read: ${error.message}. Reload the page to try again.`);
    }
  }

  draw() {
    if (!this.shown) return;
    const { metric, x } = this.shown; // not those just chosen, whose numbers are still on their way
    const { log, look } = this.options;
    const series = [...this.known.values()].filter((curve) => curve.x.length).map((curve) => ({
      kind: "line",
      key: curve.trial_id,
      label: `trial ${curve.number} (${curve.paused ? "paused" : curve.state})`,
      href: () => `${root}/trials/${curve.trial_id}`,
      details: () => told(curve.params),
      points: curve.x.map((place, index) => [place, Number(curve.values[index])]),
      ...look(curve),
    }));
    this.chart.set({ series, x: { label: UNITS[x], integer: x === "step" },
      y: { label: metric, kind: log ? "log" : "linear" } });
    this.chart.say(this.words(series.length));
  }

  words(shown) {
    if (!shown) return "";
    const { beyond, placeless } = this.chart;
    return [counted(shown, "curve"),
      !this.options.numbers && this.trials > this.known.size
        ? ` of ${this.trials} trials: those that run, the best and the newest` : "",
      this.thinned ? "; of long curves the least and the greatest of each stretch" : "",
      beyond ? `; ${counted(beyond, "point")} far off beyond the frame` : "",
      placeless ? `; ${counted(placeless, "point")} at or below 0, which a log axis does not have` : "", "."].join("");
  }
}
