// The form of a new study: it writes the study file, and the server says what is wrong with it.

import { chosen, input, labelled, options, settings } from "./form/fields.js";
import { choicesOf, parameterRow, readParameter } from "./form/parameter.js";
import { preview } from "./form/preview.js";
import { courses } from "./form/schedules.js";
import { copies, throttled } from "./pieces.js";

const root = document.body.dataset.root;
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const catalogue = read("catalogue");
const start = read("start");
const form = document.getElementById("new-study");
const at = (id) => document.getElementById(id);
const space = at("space");
const entry = (kind, name) => catalogue[kind].find((one) => one.name === name);
const nameOf = (given) => (typeof given === "string" ? given : given?.name);
const partOf = (key) => (typeof start[key] === "object" && start[key] !== null ? start[key] : {});
const rows = () => [...space.children];
const rowOf = (name) => rows().find((row) => row.dataset.name === name);

const OWN_LOOP = { name: "", kind: "loop", params: [], settings: [], metrics: [],
  summary: "Your own code asks for trials and reports them; no worker trains them.",
  objective: { metric: "value", direction: "minimize" } };
const taskNow = () => entry("tasks", at("task").value) ?? OWN_LOOP;

// Filling in. What was typed before this script came stays.

options(at("task"), catalogue.tasks.map((task) => task.name), nameOf(start.task));
at("task").append(new Option("none: a loop of my own", "", false, !start.task));
for (const [kind, key] of [["samplers", "sampler"], ["pruners", "pruner"]]) {
  options(at(key), catalogue[kind].map((one) => one.name), nameOf(start[key]) ?? "auto");
  at(key).addEventListener("change", () => plan(kind, key));
  plan(kind, key);
}
for (const name of ["name", "description"]) at(name).value ||= start[name] ?? "";
at("tags").value = (start.tags ?? []).join(", ");
for (const name of ["trials", "epochs", "total_epochs", "target"]) at(name).value = start.budget?.[name] ?? "";
at("epochs").value ||= 20;
at("minutes").value = start.budget?.seconds ? start.budget.seconds / 60 : "";
at("seed").value = start.seed ?? 0;
at("sampler-seed").value = partOf("sampler").seed ?? "";
at("priority").value = start.priority ?? 0;
at("eval_every").value = start.eval_every ?? 1;
at("range_test").checked = start.range_test ?? false;
chooseTask([start.objective ?? []].flat());
for (const [name, value] of Object.entries(start.space === "auto" ? {} : start.space ?? {})) addRow(name, value);

function plan(kind, key) {
  const found = entry(kind, at(key).value);
  at(`${key}-hint`).textContent = found?.summary ?? "";
  const given = nameOf(start[key]) === found?.name ? partOf(key) : {};
  settings(at(`${key}-settings`), found?.settings ?? [], given, key);
}

function chooseTask(objectives = []) {
  const task = taskNow();
  at("task-hint").textContent = task.summary;
  const params = task.params.map((entry) => (
    task.files.includes(entry.name) ? { ...entry, list: "datasets" } : entry));
  settings(at("task-params"), params, nameOf(start.task) === task.name ? start.task?.params : {},
    "task.params");
  at("objectives").replaceChildren();
  for (const one of objectives.length ? objectives : [task.objective]) addObjective(task, one);
  at("names").replaceChildren(...[...namesFor(task)].sort().map((name) => new Option(name)));
}

// What a task reads; a script and a loop of one's own read what they like.
function namesFor(task) {
  const known = new Set(task.settings.map((setting) => setting.name));
  if (task.kind !== "task") return known;
  for (const name of ["optimizer", "batch_size", "schedule", "warmup_fraction", "warmup", "epochs",
    "label_smoothing", "clip_norm", "dropout"]) known.add(name);
  for (const one of catalogue.optimizers) one.settings.forEach((setting) => known.add(setting.name));
  for (const one of catalogue.schedules) one.settings.forEach((setting) => known.add(`schedule.${setting.name}`));
  return known;
}

function addObjective(task, given) {
  const row = document.createElement("div");
  row.className = "objective";
  // Where nobody can say what will be measured, it is written.
  const metric = task.metrics.length ? document.createElement("select") : input(given.metric);
  if (task.metrics.length) options(metric, task.metrics, given.metric);
  const direction = document.createElement("select");
  options(direction, ["minimize", "maximize"], given.direction);
  const place = at("objectives").children.length;
  row.append(labelled(place ? `Objective ${place + 1}` : "Objective", metric, { key: "metric" }),
    labelled("Direction", direction, { key: "direction" }));
  if (place) {
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "quiet";
    remove.textContent = "✕";
    remove.setAttribute("aria-label", `Remove objective ${place + 1}`);
    remove.addEventListener("click", () => {
      row.remove();
      check();
    });
    row.append(remove);
  }
  at("objectives").append(row);
}

// The search space

function addRow(name, value) {
  const parents = () => rows().map((row) => [row.dataset.name, choicesOf(row)]);
  const extra = name === "schedule" ? (row) => {
    const place = document.createElement("div");
    row.pictures = courses(place, catalogue.schedules, () => choicesOf(row) ?? []);
    return place;
  } : null;
  space.append(parameterRow(name, value, { parents, extra }));
  rowOf("schedule")?.pictures();
}

function add() {
  const name = at("add-name").value.trim();
  if (!name || rowOf(name)) return;
  addRow(name, suggested(name));
  at("add-name").value = "";
  check();
}

// The default range of a name, from the optimizers and schedules that the space names, and the task.
function suggested(name) {
  const chosenOf = (key) => (rowOf(key) ? choicesOf(rowOf(key)) ?? [] : []);
  const rules = chosenOf("optimizer").map((rule) => entry("optimizers", rule));
  const courseOf = name.startsWith("schedule.") ? catalogue.schedules : [];
  const found = [...rules, taskNow(), ...catalogue.optimizers]
    .flatMap((one) => one?.settings ?? [])
    .concat(courseOf.flatMap((one) => one.settings.map((setting) => ({ ...setting,
      name: `schedule.${setting.name}`, of: one.name }))))
    .find((one) => one.name === name);
  const range = found?.search ?? (found ? found.default ?? "" : undefined);
  if (range !== undefined) return range;
  return {
    optimizer: "adamw",
    batch_size: { type: "categorical", choices: [16, 32, 64, 128] },
    schedule: { type: "categorical", choices: ["constant", "cosine", "linear"] },
    warmup_fraction: { type: "float", low: 0, high: 0.2 },
    dropout: { type: "float", low: 0, high: 0.5 },
    label_smoothing: { type: "float", low: 0, high: 0.2 },
  }[name] ?? { type: "float", low: 0, high: 1 };
}

// The study file

const amount = (id) => (at(id).value.trim() === "" ? undefined : Number(at(id).value));

function spec() {
  const params = chosen(at("task-params"));
  const objectives = [...at("objectives").children].map((row) => Object.fromEntries(
    [...row.querySelectorAll("[data-key]")].map((control) => [control.dataset.key, control.value])));
  const made = {
    ...start, // settings that the form has no field for, such as those of a clone, stay
    name: at("name").value.trim(),
    task: at("task").value ? { name: at("task").value, ...(Object.keys(params).length ? { params } : {}) }
      : undefined,
    objective: objectives.length > 1 ? objectives : objectives[0],
    space: Object.fromEntries(rows().map(readParameter)),
    range_test: at("range_test").checked || undefined,
    sampler: { name: at("sampler").value, ...chosen(at("sampler-settings")), seed: amount("sampler-seed") },
    pruner: { name: at("pruner").value, ...chosen(at("pruner-settings")) },
    budget: { trials: amount("trials"), epochs: amount("epochs"), total_epochs: amount("total_epochs"),
      seconds: amount("minutes") === undefined ? undefined : 60 * amount("minutes"),
      target: amount("target") },
    seed: amount("seed"),
    priority: amount("priority") || undefined,
    eval_every: amount("eval_every") === 1 ? undefined : amount("eval_every"),
    tags: at("tags").value.split(",").map((tag) => tag.trim()).filter(Boolean),
    description: at("description").value.trim() || undefined,
  };
  if (!made.tags.length) delete made.tags;
  return JSON.parse(JSON.stringify(made)); // drops what is undefined
}

function post(path, body) {
  return fetch(`${root}/api/v1/studies${path}`, { method: "POST", body: JSON.stringify(body),
    headers: { "content-type": "application/json", accept: "application/json" } });
}

// What the server says

function complain(problem) {
  for (const element of form.querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
  for (const row of rows()) row.querySelector(":scope > .error").textContent = "";
  at("form-error").textContent = problem ? problem.detail : "";
  const field = problem?.field ?? "";
  const row = rows().filter((one) => field === `space.${one.dataset.name}`
    || field.startsWith(`space.${one.dataset.name}.`))
    .sort((a, b) => b.dataset.name.length - a.dataset.name.length)[0];
  if (row) {
    row.querySelector(":scope > .error").textContent = problem.detail;
    const key = field.slice(`space.${row.dataset.name}.`.length).split(/[.[]/)[0];
    const control = row.querySelector(`[data-key="${CSS.escape(key)}"]`) ?? row.querySelector("[data-key]");
    control.setAttribute("aria-invalid", "true");
    return;
  }
  const parts = field.replace(/\[/g, ".").split(".");
  for (let length = parts.length; length > 0; length -= 1) {
    const name = parts.slice(0, length).join(".");
    const found = form.querySelector(`[data-field="${CSS.escape(name)}"]`);
    if (found) {
      found.closest("details")?.setAttribute("open", "");
      // Of a group, such as the objectives, the control at the place that is named, or the first.
      const group = found.querySelectorAll(`[data-key="${CSS.escape(parts.at(-1))}"], input, select`);
      const control = group[Number(parts[length])] ?? group[0] ?? found;
      control.setAttribute("aria-invalid", "true");
      return;
    }
  }
}

const LOGGED_OUT = "You are logged out. Log in in another tab and come back; what you typed stays here.";
const told = (response, found) => (response.status === 401 ? { detail: LOGGED_OUT } : found);

const shown = preview(at("preview"));
let generation = 0;
const check = throttled(async () => {
  const mine = ++generation;
  rowOf("schedule")?.pictures();
  const wanted = spec();
  try {
    // A name is the last thing one thinks of; everything else is checked meanwhile.
    const response = await post("/preview", { ...wanted, name: wanted.name || "unnamed" });
    const found = await response.json();
    if (mine !== generation) return;
    complain(response.ok ? null : told(response, found));
    const wrong = [409, 422].includes(response.status); // all else is not the study's fault
    at("submit").disabled = wrong;
    if (response.ok) shown.show(found);
    else shown.wrong(wrong ? "Mend what is marked to see the preview." : "");
  } catch {
    if (mine === generation) shown.wrong("The server cannot be reached; what you typed stays here.");
  }
}, 500);

for (const kind of ["input", "change"]) form.addEventListener(kind, check);
at("task").addEventListener("change", () => chooseTask());
at("add").addEventListener("click", add);
at("add-objective").addEventListener("click", () => {
  const task = taskNow();
  const used = [...at("objectives").querySelectorAll('[data-key="metric"]')].map((one) => one.value);
  const metric = task.metrics.length ? task.metrics.find((one) => !used.includes(one)) : "";
  if (metric !== undefined) addObjective(task, { metric, direction: /acc|score|auc|f1/.test(metric) ? "maximize" : "minimize" });
  check();
});
at("add-name").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  add();
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  at("submit").disabled = true;
  try {
    const response = await post("", spec());
    const found = await response.json();
    if (response.ok) location.href = `${root}/studies/${found.id}`;
    else complain(told(response, found));
  } catch {
    complain({ detail: "The server cannot be reached; what you typed stays here. Try again." });
  } finally {
    at("submit").disabled = false;
  }
});

// Who comes back may have logged in again.
document.addEventListener("visibilitychange", () => !document.hidden && check());

copies(form, spec);
check();
