// What every page does: local times, confirmed actions, pieces that refresh themselves, swaps of a
// piece instead of the page. Without JavaScript all of it still works as plain links and forms, and
// what would be asked in a dialog is a page of its own.

import { swap } from "./pieces.js";

const dialog = document.getElementById("confirm");

function confirmed(text) {
  document.getElementById("confirm-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

dialog.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) dialog.close(button.value);
});

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if ("swapForm" in form.dataset) {
    event.preventDefault();
    await filled(form);
    return;
  }
  if (!form.dataset.confirm || form.dataset.confirmed) return;
  event.preventDefault();
  if (await confirmed(form.dataset.confirm)) {
    form.dataset.confirmed = "yes";
    form.method = "post";
    form.requestSubmit(event.submitter);
  }
});

// Links inside a live piece that carry data-swap change only the piece.
document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  await follow(link.closest("[data-live]"), new URL(link.href));
});

// So do forms with data-swap-form, at once where a control has data-now.
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-swap-form]");
  if (form && "now" in event.target.dataset) form.requestSubmit();
});

async function filled(form) {
  const url = new URL(form.action);
  url.search = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  form.reset();
  await follow(form.closest("[data-live]"), url);
}

async function follow(piece, url) {
  history.replaceState(null, "", url);
  await swap(piece);
}

// Menus close when somebody looks elsewhere.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && event.target.closest?.("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

for (const piece of document.querySelectorAll("[data-live][data-every]")) {
  setInterval(() => {
    if (!document.hidden) swap(piece);
  }, 1000 * Number(piece.dataset.every));
  filledUp(piece);
}

// A piece that says there is more of it is asked for at once, as long as that brings something.
async function filledUp(piece) {
  let before = null;
  while (piece.querySelector("[data-more]") && piece.innerHTML !== before) {
    before = piece.innerHTML;
    await swap(piece);
  }
}

function localTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    element.title = new Date(element.dateTime).toLocaleString();
  }
}

localTimes(document);
document.addEventListener("swapped", (event) => localTimes(event.detail));
