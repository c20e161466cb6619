// One hyperparameter on the form: a constant, a range (linear or log), or choices; and when it is
// active.

const KINDS = ["float", "int", "categorical", "constant"];
const NUMBERS = [["low", "Low"], ["high", "High"], ["step", "Step (optional)"]];
let serial = 0;

function labelled(text, control, key) {
  const field = document.createElement("div");
  field.className = "field";
  const label = document.createElement("label");
  label.textContent = text;
  control.id = `p${serial += 1}`;
  control.dataset.key = key;
  label.htmlFor = control.id;
  field.append(label, control);
  return field;
}

function input(value, placeholder = "") {
  const element = document.createElement("input");
  element.value = value ?? "";
  element.placeholder = placeholder;
  element.autocomplete = "off";
  element.spellcheck = false;
  return element;
}

const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));

export function parameterRow(name, value) {
  const row = document.createElement("div");
  row.className = "param";
  row.dataset.name = name;
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", name);
  const ranged = value !== null && typeof value === "object";
  row.extra = ranged ? value : {};
  const title = document.createElement("b");
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
    rows.dispatchEvent(new Event("removed"));
  });
  const show = (given) => values.replaceChildren(...fields(kind.value, given));
  kind.addEventListener("change", () => show(carried(kind.value, row)));
  row.append(title, labelled("Kind", kind, "type"), values, remove);
  show(ranged ? value : { value });
  return row;
}

function fields(kind, given) {
  const made = [];
  if (kind === "constant") made.push(labelled("Value", input(written(given.value ?? "")), "value"));
  if (kind === "categorical") {
    const text = (given.choices ?? []).map(written).join(", ");
    made.push(labelled("Choices", input(text, "separated by commas"), "choices"));
  }
  if (kind === "float" || kind === "int") {
    for (const [key, label] of NUMBERS) {
      const control = input(given[key] === undefined || given[key] === null ? "" : String(given[key]));
      control.inputMode = "decimal";
      made.push(labelled(label, control, key));
    }
    const log = document.createElement("select");
    log.replaceChildren(new Option("linear", ""), new Option("log", "log"));
    log.value = given.log ? "log" : "";
    made.push(labelled("Scale", log, "log"));
  }
  const when = Object.entries(given.when ?? {}).map(([parent, values]) =>
    `${parent}=${[values].flat().map(written).join("|")}`).join(", ");
  made.push(labelled("Only when", input(when, "schedule=cosine|linear"), "when"));
  return made;
}

// What is kept of the values when the kind changes.
function carried(kind, row) {
  const value = (key) => row.querySelector(`[data-key="${key}"]`)?.value;
  const first = value("low") ?? value("value") ?? value("choices")?.split(",")[0];
  if (kind === "constant") return { value: scalar(first ?? "") };
  if (kind === "categorical") return { choices: first ? [scalar(first)] : [] };
  return { low: value("low") ?? first, high: value("high") ?? first, log: value("log") };
}

function scalar(text) {
  const trimmed = String(text).trim();
  if (trimmed !== "" && Number.isFinite(Number(trimmed))) return Number(trimmed);
  return { true: true, false: false, null: null }[trimmed] ?? (trimmed === "null" ? null : trimmed);
}

// The row in the study file's form: [name, value].
export function readParameter(row) {
  const value = (key) => row.querySelector(`[data-key="${key}"]`)?.value.trim() ?? "";
  const kind = value("type");
  const when = readWhen(value("when"));
  if (kind === "constant" && !when) return [row.dataset.name, scalar(value("value"))];
  const made = { type: kind };
  if (kind === "constant") made.value = scalar(value("value"));
  else if (kind === "categorical") {
    made.choices = value("choices").split(",").map(scalar).filter((choice) => choice !== "");
  } else {
    for (const [key] of NUMBERS) if (value(key) !== "") made[key] = scalar(value(key));
    if (value("log")) made.log = true;
    if (row.extra.type === kind && row.extra.prior !== undefined) made.prior = row.extra.prior;
  }
  if (when) made.when = when;
  return [row.dataset.name, made];
}

function readWhen(text) {
  if (!text) return null;
  return Object.fromEntries(text.split(",").map((pair) => {
    const [parent, values = ""] = pair.split("=");
    return [parent.trim(), values.split("|").map(scalar)];
  }));
}
