// A study's finished trials as this page knows them: what there is to show once, then what came since.

import { counted, number } from "../numbers.js";
import { json } from "../pieces.js";

const MOST = 2000; // trials that the server picks
const beats = (a, b, minimize) => (minimize ? a < b : a > b);

export class Finished {
  constructor(study) {
    this.study = study;
    this.rows = new Map(); // trial id -> {id, number, state, values, params}
    this.revision = null;
    this.count = 0;
    this.metrics = [];
    this.axes = [];
    this.best = []; // [number, value] of each that was better than all before it
    this.front = new Set();
  }

  async fetch() {
    const since = this.revision === null || this.rows.size > 2 * MOST ? "" : `?since=${this.revision}`;
    const found = await json(`/api/v1/studies/${this.study}/overview${since}`);
    if (found.whole) {
      this.rows.clear();
      this.front.clear();
      this.best = [];
    }
    this.axes = found.axes; // what Optuna runs may have more of them with each trial
    this.metrics = found.metrics;
    this.minimize = found.directions.map((direction) => direction === "minimize");
    this.revision = found.revision;
    this.count = found.finished;
    found.ids.forEach((id, index) => {
      const params = {};
      for (const { name } of found.axes) params[name] = found.params[name][index];
      this.rows.set(id, { id, number: found.numbers[index], state: found.states[index], params,
        values: found.values.map((column) => column[index]) });
    });
    for (const { params } of this.rows.values()) {
      for (const { name } of found.axes) params[name] ??= null;
    }
    this.best = improvements([...this.best, ...found.best], this.minimize[0]);
    found.front.forEach((id) => this.front.add(id));
    if (!found.whole) this.front = nondominated(this, this.front);
  }

  get metric() {
    return this.metrics[0];
  }

  // Complete trials with a value in every objective, by number.
  get complete() {
    return [...this.rows.values()].filter((row) => row.state === "complete"
      && row.values.every((value) => value !== null)).sort((a, b) => a.number - b.number);
  }

  // For each trial the share of the others that it beats, 1 for the best.
  ranks(rows) {
    const order = [...rows].sort((a, b) => (this.minimize[0] ? 1 : -1) * (b.values[0] - a.values[0]));
    const last = Math.max(1, order.length - 1);
    return new Map(order.map((row, index) => [row.id, index / last]));
  }

  // A value of the first objective with as many digits as the page's head and table have.
  said(value) {
    return number(value, Number(document.querySelector("[data-digits]").dataset.digits));
  }

  get thinned() {
    return this.rows.size < this.count
      ? `${this.rows.size} of ${this.count} finished trials: the best, and as many of the others as keep `
        + "the look of all"
      : counted(this.count, "finished trial");
  }
}

function improvements(steps, minimize) {
  const kept = [];
  for (const [number, value] of steps.sort((a, b) => a[0] - b[0])) {
    if (!kept.length || beats(value, kept.at(-1)[1], minimize)) kept.push([number, value]);
  }
  return kept;
}

function nondominated(finished, ids) {
  const rows = [...ids].map((id) => finished.rows.get(id)).filter(Boolean);
  const beaten = (row) => rows.some((other) => other !== row
    && other.values.every((value, at) => !beats(row.values[at], value, finished.minimize[at]))
    && other.values.some((value, at) => beats(value, row.values[at], finished.minimize[at])));
  return new Set(rows.filter((row) => !beaten(row)).map((row) => row.id));
}
