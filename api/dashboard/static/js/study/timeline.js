// Who trained what, and when: a lane for each trial that a worker has at the same time.

import { Chart } from "../chart.js";
import { clock, counted, duration } from "../numbers.js";
import { json } from "../pieces.js";
import { trouble } from "../surface.js";

const root = document.body.dataset.root;
const TONES = { running: 0, complete: 2, pruned: 7, fail: 1, paused: 4 };

// Gives each span a lane of its worker in which nothing else lies.
function lanes(spans, now) {
  const workers = new Map(); // worker id -> the ends of its lanes
  const placed = spans.map((span) => {
    const ends = workers.get(span.worker_id) ?? [];
    workers.set(span.worker_id, ends);
    let lane = ends.findIndex((end) => end <= span.start);
    if (lane < 0) lane = ends.length;
    ends[lane] = span.end ?? now;
    return { ...span, lane };
  });
  return { workers, placed };
}

export function timeline(figure, study) {
  const chart = new Chart(figure, { x: { label: "", kind: "time" },
    y: { label: "", kind: "category", choices: [] } });
  return async () => {
    let found;
    try {
      found = await json(`/api/v1/studies/${study}/timeline`);
    } catch (error) {
      trouble(figure, `The timeline cannot be read: ${error.message}.`);
      return;
    }
    trouble(figure, "");
    const now = Date.now() / 1000;
    const { workers, placed } = lanes(found.spans, now);
    const name = (id) => (id === null ? "own loop" : found.workers[id] ?? `worker ${id}`);
    const choices = [...workers].flatMap(([id, ends]) => ends.map((_, lane) => `${id}:${lane}`));
    const spans = placed.map((span) => ({ from: span.start, to: span.end ?? now,
      row: `${span.worker_id}:${span.lane}`, tone: TONES[span.outcome],
      dim: !(span.outcome in TONES) }));
    chart.set({ x: {}, y: { choices: choices.reverse(), name: (choice) => {
      const [id, lane] = choice.split(":");
      return lane === "0" ? name(id === "null" ? null : Number(id)) : "";
    } }, series: [{ kind: "spans", key: "spans", spans,
      href: (index) => `${root}/trials/${placed[index].trial_id}`,
      tell: (index) => {
        const span = placed[index];
        return [`trial ${span.number}: ${span.outcome}`, `on ${name(span.worker_id)}`,
          `${clock(span.start)} to ${span.end ? clock(span.end) : "now"}, `
            + `${duration((span.end ?? now) - span.start)}`];
      } }] });
    chart.say(placed.length ? `${counted(placed.length, "lease")}${found.cut ? ", the newest" : ""}, by the local `
      + "clock. A gap between them is a worker that had nothing to do." : "");
  };
}
