// Labelled controls, and text as the values that a study file holds.

let serial = 0;

export function labelled(text, control, { key = "", hint = "" } = {}) {
  const field = document.createElement("div");
  field.className = "field";
  const label = document.createElement("label");
  label.textContent = text;
  control.id ||= `f${serial += 1}`;
  if (key) control.dataset.key = key;
  label.htmlFor = control.id;
  field.append(label, control);
  if (hint) {
    const note = document.createElement("span");
    note.className = "hint";
    note.id = `${control.id}-hint`;
    note.textContent = hint;
    control.setAttribute("aria-describedby", note.id);
    field.append(note);
  }
  return field;
}

export function input(value, placeholder = "") {
  const element = document.createElement("input");
  element.value = value ?? "";
  element.placeholder = placeholder;
  element.autocomplete = "off";
  element.spellcheck = false;
  return element;
}

export function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

// As it is typed: a text that would be read as something else, or as two, stands in quotes.
export function written(value) {
  const plain = typeof value === "string" && value !== "" && scalar(value) === value && !/^"|,/.test(value);
  return plain ? value : JSON.stringify(value);
}

// A number, true, false or null, or what stands in quotes; anything else is text.
export function scalar(text) {
  const trimmed = String(text).trim();
  if (trimmed.startsWith('"')) return parsed(trimmed);
  if (trimmed !== "" && Number.isFinite(Number(trimmed))) return Number(trimmed);
  if (trimmed === "null") return null;
  return { true: true, false: false }[trimmed] ?? trimmed;
}

// What stands between commas; those within quotes separate nothing.
export const items = (text) => [...text.matchAll(/\s*("(?:[^"\\]|\\.)*"\s*(?=,|$)|[^,]*)(?:,|$)/g)]
  .map(([, item]) => item.trim()).filter(Boolean);

export const scalars = (text) => items(text).map(scalar);

// One input for each thing that a task, a sampler or a pruner lets be set; what is left empty keeps
// its default. `field` is where the study file has them, such as "sampler"; an entry's `list` is the
// id of what is offered to choose from.
export function settings(place, entries, given, field) {
  place.replaceChildren(...entries.map((entry) => {
    const value = given?.[entry.name];
    const choices = entry.type === "bool" ? ["true", "false"] : entry.choices;
    const control = choices.length ? document.createElement("select") : input("", shown(entry.default));
    if (choices.length) {
      control.append(new Option(entry.default === null ? "default" : `default: ${entry.default}`, ""));
      for (const choice of choices) control.append(new Option(choice));
    }
    if (value !== undefined && value !== null) control.value = written(value);
    if (entry.list) control.setAttribute("list", entry.list);
    control.dataset.setting = entry.name;
    control.dataset.field = `${field}.${entry.name}`;
    return labelled(entry.name + (entry.required ? "" : " (optional)"), control,
      { hint: entry.description });
  }));
}

const shown = (value) => (value === null || value === undefined ? "" : String(value));

// What of these settings is filled in. A text may be JSON, such as a list.
export function chosen(place) {
  const found = {};
  for (const control of place.querySelectorAll("[data-setting]")) {
    const text = control.value.trim();
    if (text) found[control.dataset.setting] = /^[[{"]/.test(text) ? parsed(text) : scalar(text);
  }
  return found;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
