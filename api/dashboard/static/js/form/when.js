// When a hyperparameter is active: only for some values of others. A condition names a parent and the
// values of it; all conditions must hold.

import { text } from "../pieces.js";
import { input, scalar, scalars, written } from "./fields.js";

// `parents()` says which names there are: [[name, choices or null], ...].
export function conditions(name, when, parents) {
  const place = document.createElement("div");
  place.className = "conditions";
  const add = document.createElement("button");
  add.type = "button";
  add.className = "quiet small";
  add.append("+ only when…", text("span", ` (a condition of ${name})`, "visually-hidden"));
  add.addEventListener("click", () => {
    const free = parents().find(([parent]) => parent !== name && !taken(place).includes(parent));
    if (!free) return;
    place.insertBefore(condition(name, free[0], [], parents), add);
    place.dispatchEvent(new Event("change", { bubbles: true }));
  });
  for (const [parent, values] of Object.entries(when ?? {})) {
    place.append(condition(name, parent, [values].flat(), parents));
  }
  place.append(add);
  return place;
}

const taken = (place) => [...place.querySelectorAll("[data-parent]")].map((one) => one.value);

function condition(name, parent, values, parents) {
  const row = document.createElement("div");
  row.className = "condition";
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", `Condition of ${name}`);
  const select = document.createElement("select");
  select.dataset.parent = "";
  select.setAttribute("aria-label", `${name} is active only for values of`);
  const names = parents().map(([one]) => one).filter((one) => one !== name);
  if (!names.includes(parent)) names.push(parent);
  select.replaceChildren(...names.map((one) => new Option(one, one, false, one === parent)));
  const choices = document.createElement("span");
  choices.className = "choices";
  const show = (kept) => choices.replaceChildren(...offered(select.value, kept, parents));
  select.addEventListener("change", () => show([]));
  const remove = document.createElement("button");
  remove.type = "button";
  remove.className = "quiet small";
  remove.textContent = "✕";
  remove.setAttribute("aria-label", `Remove the condition of ${name}`);
  remove.addEventListener("click", () => {
    const place = row.parentElement;
    row.remove();
    place.dispatchEvent(new Event("change", { bubbles: true }));
  });
  const is = document.createElement("span");
  is.textContent = "is";
  row.append("only when ", select, is, choices, remove);
  show(values);
  return row;
}

// A box a choice of the parent; a text where it has none to choose from.
function offered(parent, kept, parents) {
  const choices = parents().find(([name]) => name === parent)?.[1];
  if (!choices) {
    const values = input(kept.map(written).join(", "), "values, with commas");
    values.dataset.values = "";
    values.setAttribute("aria-label", `Values of ${parent}`);
    return [values];
  }
  return choices.map((choice) => {
    const label = document.createElement("label");
    label.className = "toggle";
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = written(choice);
    box.checked = kept.some((value) => written(value) === box.value);
    label.append(box, ` ${box.value}`);
    return label;
  });
}

// The conditions as the study file has them, or null.
export function readWhen(place) {
  const found = {};
  for (const row of place.querySelectorAll(".condition")) {
    const typed = row.querySelector("[data-values]");
    found[row.querySelector("[data-parent]").value] = typed ? scalars(typed.value)
      : [...row.querySelectorAll("input:checked")].map((box) => scalar(box.value));
  }
  return Object.keys(found).length ? found : null;
}
