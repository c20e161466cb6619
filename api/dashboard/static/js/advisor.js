// The advisor's page: its answer follows the form, and the picture follows the answer.

import { announce, swap, throttled } from "./pieces.js";
import { ScalingPicture } from "./scaling.js";

const form = document.getElementById("ask");
const answer = document.getElementById("answer");
const legend = document.getElementById("picture-legend");
const batch = document.getElementById("ask-to");

const picture = new ScalingPicture(document.getElementById("picture"), (size) => {
  if (batch.value === String(size)) return;
  batch.value = size;
  ask();
});

const ask = throttled(() => {
  const url = new URL(form.action);
  url.search = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  history.replaceState(null, "", url);
  swap(answer);
}, 250);

form.addEventListener("input", ask);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});

function show() {
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  form.querySelector(".field > .error")?.remove();
  const error = answer.querySelector("#advisor-error");
  const wrong = error && form.querySelector(`.field > [name="${CSS.escape(error.dataset.field)}"]`);
  if (wrong) {
    // Beside its field too: on a small screen the answer is far away.
    const text = document.createElement("span");
    text.className = "error";
    text.textContent = error.textContent;
    wrong.after(text);
    wrong.setAttribute("aria-invalid", "true");
    wrong.closest("details")?.setAttribute("open", "");
  }
  const held = answer.querySelector("script.picture");
  if (!held) return; // the last picture stays while the form is not right
  const data = JSON.parse(held.textContent);
  picture.set(data);
  const there = {
    points: data.points.some(([, , shade]) => shade !== null),
    diverged: data.points.some(([, , shade]) => shade === null),
    optima: data.optima.length > 0,
    curve: data.curve.length > 0,
  };
  for (const item of legend.querySelectorAll("[data-for]")) item.hidden = !there[item.dataset.for];
  const rate = answer.querySelector("#new-lr")?.firstChild?.textContent;
  if (rate) announce(`Learning rate ${rate} at batch size ${batch.value}.`);
}

document.addEventListener("swapped", show);
document.addEventListener("missed", ({ detail }) => {
  const text = `The advisor cannot be asked: ${detail.why}. What is below answers the form of before.`;
  if (answer.firstChild?.textContent === text) return;
  const notice = document.createElement("div");
  notice.className = "notice";
  notice.setAttribute("role", "alert");
  notice.textContent = text;
  answer.prepend(notice);
});
show();
