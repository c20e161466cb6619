// The form of a new study: it writes the study file, and the server says what is wrong with it.

import { number } from "./numbers.js";
import { parameterRow, readParameter } from "./parameter.js";
import { copies, throttled } from "./pieces.js";

const root = document.body.dataset.root;
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const catalogue = read("catalogue");
const start = read("start");
const form = document.getElementById("new-study");
const at = (id) => document.getElementById(id);
const space = at("space");

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

const entry = (kind, name) => catalogue[kind].find((one) => one.name === name);
const nameOf = (given) => (typeof given === "string" ? given : given?.name);

// Filling in

options(at("task"), catalogue.tasks.map((task) => task.name), nameOf(start.task));
options(at("sampler"), catalogue.samplers.map((one) => one.name), nameOf(start.sampler) ?? "tpe");
options(at("pruner"), catalogue.pruners.map((one) => one.name), nameOf(start.pruner) ?? "asha");
// What was typed before this script came stays.
for (const name of ["name", "description"]) at(name).value ||= start[name] ?? "";
at("tags").value = (start.tags ?? []).join(", ");
at("trials").value = start.budget?.trials ?? "";
at("epochs").value = start.budget?.epochs ?? 20;
at("minutes").value = start.budget?.seconds ? start.budget.seconds / 60 : "";
at("seed").value = start.seed ?? 0;
at("priority").value = start.priority ?? 0;
chooseTask(Array.isArray(start.objective) ? start.objective[0] : start.objective);
for (const [name, value] of Object.entries(start.space === "auto" ? {} : start.space ?? {})) {
  space.append(parameterRow(name, value, catalogue));
}
hints();

function chooseTask(objective) {
  const task = entry("tasks", at("task").value);
  if (!task) return;
  const chosen = objective ?? task.objective;
  options(at("objective"), task.metrics, chosen.metric);
  at("direction").value = chosen.direction;
  at("task-hint").textContent = task.summary;
  at("task-params").replaceChildren(...task.params.map((param) => {
    const field = document.createElement("div");
    field.className = "field";
    const label = document.createElement("label");
    label.textContent = param.name + (param.required ? "" : " (optional)");
    label.htmlFor = `param-${param.name}`;
    const input = document.createElement("input");
    input.id = label.htmlFor;
    input.dataset.param = param.name;
    input.dataset.field = `task.params.${param.name}`;
    input.placeholder = param.default === null ? "" : String(param.default);
    const given = nameOf(start.task) === task.name ? start.task?.params?.[param.name] : undefined;
    if (given !== undefined) input.value = typeof given === "string" ? given : JSON.stringify(given);
    field.append(label, input);
    return field;
  }));
  const known = new Set();
  for (const optimizer of catalogue.optimizers) optimizer.settings.forEach((one) => known.add(one.name));
  ["optimizer", "batch_size", "schedule", "warmup_fraction", "label_smoothing", "clip_norm", "dropout",
    "epochs"].forEach((name) => known.add(name));
  task.settings.forEach((one) => known.add(one.name));
  at("names").replaceChildren(...[...known].sort().map((name) => new Option(name)));
}

function hints() {
  at("sampler-hint").textContent = entry("samplers", at("sampler").value)?.summary ?? "";
  at("pruner-hint").textContent = entry("pruners", at("pruner").value)?.summary ?? "";
}

// The study file

function scalar(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function whole(id) {
  const text = at(id).value.trim();
  return text === "" ? undefined : Number(text);
}

// Settings that the form has no field for, such as those of a cloned study's sampler, stay.
function plan(kind, key) {
  const name = at(kind).value;
  return nameOf(start[key]) === name && typeof start[key] === "object" ? start[key] : { name };
}

function spec() {
  const params = {};
  for (const input of form.querySelectorAll("[data-param]")) {
    if (input.value.trim()) params[input.dataset.param] = scalar(input.value.trim());
  }
  const task = { name: at("task").value };
  if (Object.keys(params).length) task.params = params;
  const budget = { ...start.budget, trials: whole("trials"), epochs: whole("epochs") };
  budget.seconds = at("minutes").value.trim() ? 60 * Number(at("minutes").value) : undefined;
  const ranges = Object.fromEntries([...space.children].map(readParameter));
  const made = {
    ...start,
    name: at("name").value.trim(),
    task,
    objective: { metric: at("objective").value, direction: at("direction").value },
    space: space.children.length ? ranges : "auto",
    sampler: plan("sampler", "sampler"),
    pruner: plan("pruner", "pruner"),
    budget,
    seed: whole("seed") ?? 0,
    priority: whole("priority") ?? 0,
    tags: at("tags").value.split(",").map((tag) => tag.trim()).filter(Boolean),
    description: at("description").value.trim(),
  };
  if (!made.tags.length) delete made.tags;
  if (!made.description) delete made.description;
  if (!made.priority) delete made.priority;
  return JSON.parse(JSON.stringify(made)); // drops what is undefined
}

function post(path, body) {
  return fetch(`${root}/api/v1/studies${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: JSON.stringify(body),
  });
}

// What the server says

function complain(problem) {
  for (const element of form.querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
  at("space-error").textContent = "";
  at("form-error").textContent = problem ? problem.detail : "";
  if (!problem?.field) return;
  const parts = problem.field.replace(/\[/g, ".").split(".");
  if (parts[0] === "space") {
    at("space-error").textContent = problem.detail;
    const row = [...space.children].find((one) => problem.field.startsWith(`space.${one.dataset.name}`));
    const key = problem.field.slice(`space.${row?.dataset.name}.`.length).split(/[.[]/)[0];
    (row?.querySelector(`[data-key="${key}"]`) ?? row?.querySelector("input"))
      ?.setAttribute("aria-invalid", "true");
    return;
  }
  for (let length = parts.length; length > 0; length -= 1) {
    const found = form.querySelector(`[data-field="${CSS.escape(parts.slice(0, length).join("."))}"]`);
    if (found) {
      found.setAttribute("aria-invalid", "true");
      break;
    }
  }
}

let generation = 0;
const preview = throttled(async () => {
  const mine = ++generation;
  const wanted = spec();
  // A name is the last thing one thinks of; everything else is checked meanwhile.
  const response = await post("/preview", { ...wanted, name: wanted.name || "unnamed" });
  const found = await response.json();
  if (mine !== generation) return;
  complain(response.ok ? null : found);
  at("submit").disabled = !response.ok;
  if (!response.ok) {
    at("cost").textContent = "Mend what is marked to see the preview.";
    at("samples").replaceChildren();
    return;
  }
  const size = found.grid_size === null ? "a continuum" : `${found.grid_size} points`;
  const cost = [found.trials === null ? "trials without a bound" : `${found.trials} trials`,
    found.total_epochs === null ? null : `at most ${number(found.total_epochs)} epochs in all`];
  at("cost").textContent = `${cost.filter(Boolean).join(", ")}; the space is ${size}. Ten samples:`;
  const names = [...new Set(found.samples.flatMap(Object.keys))];
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const name of names) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const sample of found.samples) {
    const row = body.insertRow();
    for (const name of names) row.insertCell().textContent = number(sample[name] ?? null);
  }
  at("samples").replaceChildren(table);
}, 500);

form.addEventListener("input", preview);
form.addEventListener("change", preview);
at("task").addEventListener("change", () => chooseTask());
at("sampler").addEventListener("change", hints);
at("pruner").addEventListener("change", hints);
at("add").addEventListener("click", add);
at("add-name").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    add();
  }
});
space.addEventListener("removed", preview);

function add() {
  const name = at("add-name").value.trim();
  if (!name || [...space.children].some((row) => row.dataset.name === name)) return;
  space.append(parameterRow(name, suggested(name), catalogue));
  at("add-name").value = "";
  preview();
}

// The default range of a name, from the optimizers that the space names and from the task.
function suggested(name) {
  const chosen = [...space.children].map(readParameter).find(([one]) => one === "optimizer")?.[1];
  const rules = [chosen?.choices ?? chosen].flat().map((rule) => entry("optimizers", rule));
  const settings = [...rules, entry("tasks", at("task").value), ...catalogue.optimizers]
    .flatMap((one) => one?.settings ?? []);
  const found = settings.find((one) => one.name === name);
  if (found?.search) return found.search;
  if (found) return found.default ?? "";
  const common = {
    optimizer: "adamw",
    batch_size: { type: "categorical", choices: [16, 32, 64, 128] },
    schedule: { type: "categorical", choices: ["constant", "cosine", "linear"] },
    warmup_fraction: { type: "float", low: 0, high: 0.2 },
    dropout: { type: "float", low: 0, high: 0.5 },
    label_smoothing: { type: "float", low: 0, high: 0.2 },
  };
  return common[name] ?? { type: "float", low: 0, high: 1 };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  at("submit").disabled = true;
  try {
    const response = await post("", spec());
    const found = await response.json();
    if (response.ok) location.href = `${root}/studies/${found.id}`;
    else complain(found);
  } catch {
    complain({ detail: "The server cannot be reached; try again." });
  } finally {
    at("submit").disabled = false;
  }
});

copies(form, spec);

preview();
