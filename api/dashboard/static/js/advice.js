// "What would I change at batch B" on a study's page: the answer appears beside the question. And the
// range of learning rates, which is looked at again until it is decided.

import { swap, throttled } from "./pieces.js";

const form = document.getElementById("change");
const place = document.getElementById("change-answer");

const ask = throttled(async () => {
  const url = new URL(form.action);
  url.search = new URLSearchParams([...new FormData(form), ["fragment", "brief"]]);
  try {
    const response = await fetch(url, { headers: { accept: "text/html" } });
    if (response.ok) place.innerHTML = await response.text(); // escaped by the server's templates
    else place.textContent = `The advisor cannot be asked: the answer was ${response.status}. Ask again later.`;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    place.textContent = "The server cannot be reached. Ask again later.";
  }
}, 250);

form?.addEventListener("input", ask);
form?.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
if (form) ask();

const range = document.querySelector('[data-live="range"]');
const undecided = () => range?.querySelector("[data-open]");
if (undecided()) {
  const timer = setInterval(async () => {
    if (document.hidden) return;
    await swap(range);
    if (!undecided()) clearInterval(timer);
  }, 3000);
}
