// One study, live: the stream of events says what changed, and only that is fetched. What lies below
// the window waits until it comes near.

import { Curves } from "./curves.js";
import { ended, listen } from "./live.js";
import { announce, copies, json, near, swap, throttled } from "./pieces.js";
import { Finished } from "./study/finished.js";
import { history } from "./study/history.js";
import { columns, picks } from "./study/table.js";
import { trouble } from "./surface.js";

const page = document.getElementById("study");
const id = page.dataset.study;
const root = document.body.dataset.root;
const at = (name) => document.getElementById(name);
const piece = (name) => page.querySelector(`[data-live="${name}"]`);

// Learning curves, and learning rates beside them

const bestId = () => Number(page.querySelector("[data-best]")?.dataset.best);

function look(curve) {
  const best = curve.trial_id === bestId();
  const runs = curve.state === "running" && !curve.paused;
  const dim = !best && !runs && curve.state !== "complete";
  return { tone: best ? 1 : runs ? 0 : 2, width: best ? 2.5 : 1.5, dim,
    level: dim ? -1 : best ? 2 : Number(runs) };
}

const metric = at("metric");
const learning = new Curves(at("curves"), id,
  { metric: metric.value, first: page.dataset.first, look });
const rates = new Curves(at("rates"), id, { metric: "lr", log: true, look });
metric.addEventListener("change", () => learning.choose({ metric: metric.value }));
at("log").addEventListener("change", () => learning.choose({ log: at("log").checked }));
at("rate-log").addEventListener("change", () => rates.choose({ log: at("rate-log").checked }));
at("unit").addEventListener("change", () => {
  for (const one of [learning, rates]) one.choose({ x: at("unit").value });
});

// Finished trials, in many pictures

const finished = new Finished(id);
const figures = page.querySelectorAll("#history, #parallel, #pair, #front");
const drawings = [history(at("history"))];
const fetchFinished = throttled(async () => {
  try {
    await finished.fetch();
  } catch (error) {
    const text = `The trials cannot be read: ${error.message}. Reload the page to try again.`;
    figures.forEach((figure) => trouble(figure, text));
    return;
  }
  figures.forEach((figure) => trouble(figure, ""));
  drawings.forEach((draw) => draw(finished));
}, 1000);

// Adds a picture once its card comes near; it is drawn with what is known by then.
function later(card, make) {
  near(card, async () => {
    const draw = await make();
    drawings.push(draw);
    if (finished.revision !== null) draw(finished);
  });
}

const parameters = () => import("./study/parameters.js");
later(at("parallel-card"), async () => {
  const { brush } = await import("./study/brush.js");
  return brush(at("parallel-card"), () => swap(piece("table")));
});
later(at("slices"), async () => (await parameters()).slices(at("slices")));
later(at("pair-card"), async () => (await parameters()).pair(at("pair-card"), id));
if (at("front-card")) later(at("front-card"), async () => (await parameters()).front(at("front-card")));

// What the server computes anew, and so less often

const slow = [];
function slower(card, make, pause) {
  near(card, async () => {
    const again = throttled(await make(), pause);
    slow.push(again);
    again();
  });
}

slower(at("importance-card"), async () => {
  const { importance } = await import("./study/importance.js");
  return importance(at("importance-card"), id);
}, 5000);
slower(at("timeline"), async () => {
  const { timeline } = await import("./study/timeline.js");
  return timeline(at("timeline"), id);
}, 5000);

// The table, and what buttons copy

picks(page, id);
columns(id, () => swap(piece("table")));
document.addEventListener("swapped", () => learning.known.size && learning.draw());
copies(page, async () => (await json(`/api/v1/studies/${id}`)).spec);

// The stream

const refresh = throttled(() => swap(piece("head"), piece("table")), 1000);

function heard(event) {
  refresh();
  learning.heard(event);
  rates.heard(event);
  if (event.kind === "trial.state" && ["complete", "pruned", "fail"].includes(event.data.state)) {
    fetchFinished();
    slow.forEach((again) => again());
    announce(`Trial ${event.data.number} is ${event.data.state}.`);
  }
  if (ended(event)) {
    learning.again();
    rates.again();
    announce(`The study is ${event.data.state}.`);
  }
  if (event.kind === "study.deleted") location.href = `${root}/`;
}

learning.fetch();
fetchFinished();
near(at("rates"), () => rates.fetch());
if (page.dataset.events !== "yes") {
  // Optuna writes no events: the page asks now and then.
  setInterval(() => {
    if (document.hidden) return;
    refresh();
    learning.again();
    fetchFinished();
    slow.forEach((again) => again());
  }, 5000);
} else if (page.dataset.finished !== "yes") listen(id, Number(page.dataset.event), heard);
