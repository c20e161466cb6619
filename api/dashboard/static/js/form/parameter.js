// One hyperparameter on the form: a constant, a range (linear or log), or choices; and when it is
// active.

import { input, items, labelled, scalar, scalars, written } from "./fields.js";
import { conditions, readWhen } from "./when.js";

const KINDS = ["float", "int", "categorical", "constant"];
const NUMBERS = [["low", "Low"], ["high", "High"], ["step", "Step"]];

// `extra(row)` may return an element to show below the row, such as the courses of schedules.
export function parameterRow(name, value, { parents, extra }) {
  const row = document.createElement("div");
  row.className = "param";
  row.dataset.name = name;
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", name);
  const ranged = value !== null && typeof value === "object";
  row.given = ranged ? value : {};
  const title = document.createElement("b");
  title.className = "title";
  title.textContent = name;
  const kind = document.createElement("select");
  kind.replaceChildren(...KINDS.map((one) => new Option(one)));
  kind.value = ranged ? value.type : "constant";
  const values = document.createElement("div");
  values.className = "values";
  const remove = document.createElement("button");
  remove.type = "button";
  remove.className = "quiet";
  remove.textContent = "✕";
  remove.setAttribute("aria-label", `Remove ${name}`);
  remove.addEventListener("click", () => {
    const rows = row.parentElement;
    row.remove();
    rows.dispatchEvent(new Event("change", { bubbles: true }));
  });
  const show = (given) => values.replaceChildren(...fields(kind.value, given));
  kind.addEventListener("change", () => show(carried(kind.value, row)));
  const when = conditions(name, row.given.when, parents);
  when.classList.add("when");
  const error = document.createElement("p");
  error.className = "error";
  error.setAttribute("role", "alert");
  row.append(title, labelled("Kind", kind, { key: "type" }), values, remove, when);
  const below = extra?.(row);
  if (below) row.append(below);
  row.append(error);
  show(ranged ? value : { value });
  return row;
}

function fields(kind, given) {
  if (kind === "constant") {
    const text = given.value === undefined || given.value === "" ? "" : written(given.value);
    return [labelled("Value", input(text), { key: "value" })];
  }
  if (kind === "categorical") {
    const text = (given.choices ?? []).map(written).join(", ");
    return [labelled("Choices", input(text, "separated by commas"), { key: "choices" })];
  }
  const made = NUMBERS.map(([key, label]) => {
    const control = input(given[key] === undefined || given[key] === null ? "" : String(given[key]));
    control.inputMode = "decimal";
    if (key === "step") control.placeholder = "none";
    return labelled(label, control, { key });
  });
  const log = document.createElement("select");
  log.replaceChildren(new Option("linear", ""), new Option("log", "log"));
  log.value = given.log ? "log" : "";
  return [...made, labelled("Scale", log, { key: "log" })];
}

const value = (row, key) => row.querySelector(`[data-key="${key}"]`)?.value.trim();

// What is kept of the values when the kind changes.
function carried(kind, row) {
  const first = value(row, "low") ?? value(row, "value") ?? items(value(row, "choices") ?? "")[0];
  if (kind === "constant") return { value: scalar(first ?? "") };
  if (kind === "categorical") return { choices: first ? [scalar(first)] : [] };
  return { low: value(row, "low") ?? first, high: value(row, "high") ?? first, log: value(row, "log") };
}

// The row in the study file's form: [name, value].
export function readParameter(row) {
  const kind = value(row, "type");
  const when = readWhen(row.querySelector(".conditions"));
  if (kind === "constant" && !when) return [row.dataset.name, scalar(value(row, "value"))];
  const made = { type: kind };
  if (kind === "constant") made.value = scalar(value(row, "value"));
  else if (kind === "categorical") made.choices = scalars(value(row, "choices"));
  else {
    for (const [key] of NUMBERS) if (value(row, key)) made[key] = scalar(value(row, key));
    if (value(row, "log")) made.log = true;
  }
  // What the form has no field for stays as it was given.
  for (const key of ["prior", "default"]) {
    if (row.given.type === kind && row.given[key] !== undefined) made[key] = row.given[key];
  }
  if (when) made.when = when;
  return [row.dataset.name, made];
}

// The values that a row can take, where they can be counted; null for a range.
export function choicesOf(row) {
  const [, given] = readParameter(row);
  if (given === null || typeof given !== "object") return [given];
  return given.choices ?? (given.type === "constant" ? [given.value] : null);
}
