// Pieces of a page that the server renders again when something changed. Only what differs is
// touched, so that focus, selection and scroll position stay where they are.

import { forms } from "./snippets.js";

const root = document.body.dataset.root;
const due = new Set();
let fetching = false;
const lost = new Set();
let retry = null;

// What could not be fetched is asked for again: there may be no further news.
function missed(pieces, why) {
  pieces.forEach((piece) => {
    lost.add(piece);
    document.dispatchEvent(new CustomEvent("missed", { detail: { piece, why } }));
  });
  retry ??= setTimeout(() => {
    retry = null;
    swap(...lost);
  }, 5000);
}

// Fetches ?fragment=NAME,NAME of the present address and puts the differences in place. Calls that
// come while one is under way become one more.
export async function swap(...pieces) {
  pieces.filter(Boolean).forEach((piece) => due.add(piece));
  if (fetching) return;
  fetching = true;
  try {
    while (due.size) {
      const wanted = [...due];
      due.clear();
      await fetched(wanted);
    }
  } finally {
    fetching = false;
  }
}

async function fetched(pieces) {
  const url = new URL(location.href);
  url.searchParams.set("fragment", pieces.map((piece) => piece.dataset.live).join(","));
  try {
    const response = await fetch(url, { headers: { accept: "text/html" } });
    if (response.redirected) location.reload(); // logged out meanwhile: the login page
    if (!response.ok) {
      const told = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("main p");
      if (response.status >= 500) missed(pieces, `the answer was ${response.status}`);
      else toast(`This cannot be shown: ${told?.textContent ?? response.statusText}`);
      return;
    }
    const fresh = document.createElement("div");
    fresh.innerHTML = await response.text(); // escaped by the server's templates
    for (const piece of pieces) {
      lost.delete(piece);
      const wanted = fresh.querySelector(`[data-live="${piece.dataset.live}"]`);
      if (!wanted) continue;
      patch(piece, wanted);
      document.dispatchEvent(new CustomEvent("swapped", { detail: piece }));
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    missed(pieces, "the server is away");
  }
}

// Makes `old` like `fresh` with as few changes as their common structure allows.
function patch(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  const used = new Set();
  let place = 0;
  for (const wanted of after) {
    const key = wanted.dataset?.key;
    let found = key ? keyed.get(key) : before.find((node, index) => index >= place
      && !used.has(node) && same(node, wanted));
    if (found && used.has(found)) found = undefined;
    const next = old.childNodes[place];
    if (!found) {
      old.insertBefore(wanted, next ?? null);
    } else {
      used.add(found);
      if (found !== next) old.insertBefore(found, next ?? null);
      update(found, wanted);
    }
    place += 1;
  }
  while (old.childNodes.length > place) old.lastChild.remove();
}

function same(node, wanted) {
  return node.nodeType === wanted.nodeType && node.nodeName === wanted.nodeName
    && !node.dataset?.key;
}

function update(node, wanted) {
  if (node.nodeType !== Node.ELEMENT_NODE) {
    if (node.nodeValue !== wanted.nodeValue) node.nodeValue = wanted.nodeValue;
    return;
  }
  if (node.isEqualNode(wanted)) return;
  for (const { name } of [...node.attributes]) {
    // What somebody opened stays open.
    const kept = name === "open" && node.nodeName === "DETAILS";
    if (!kept && !wanted.hasAttribute(name)) node.removeAttribute(name);
  }
  for (const { name, value } of [...wanted.attributes]) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  if (node === document.activeElement && "value" in node) return;
  patch(node, wanted);
}

export async function json(path) {
  // Without headers of its own, so that what the page preloads is what this asks for.
  const response = await fetch(root + path);
  const body = await response.json().catch(() => ({})); // a proxy's page is no JSON
  if (!response.ok) throw new Error(body.detail ?? `the answer was ${response.status}`);
  return body;
}

const SHARE = 4; // a page keeps a server busy for a quarter of the time at most

// Runs `work` at once, then at most every `pause` milliseconds, later where it takes long; calls in
// between become one.
export function throttled(work, pause) {
  let timer = null;
  let running = false;
  let again = false;
  let next = 0;
  function call() {
    if (running) again = true;
    else timer ??= setTimeout(run, Math.max(0, next - performance.now()));
  }
  async function run() {
    timer = null;
    running = true;
    const began = performance.now();
    try {
      await work();
    } finally {
      running = false;
      next = began + Math.max(pause, SHARE * (performance.now() - began));
      if (again) {
        again = false;
        call();
      }
    }
  }
  return call;
}

export function text(tag, content, className = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  element.className = className;
  return element;
}

// Runs `work` when the element is about to be seen: once, or until it goes well.
export function near(element, work) {
  const watch = new IntersectionObserver(async (entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.unobserve(element);
    try {
      await work();
    } catch (error) { // what it loads is not there while the server is away
      console.error(error);
      setTimeout(() => watch.observe(element), 5000);
    }
  }, { rootMargin: "400px" });
  watch.observe(element);
}

// Buttons with data-copy put a study into the clipboard, as YAML, curl or Python.
export function copies(place, spec) {
  for (const button of place.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      toast(await copied(forms[button.dataset.copy](await spec())) ? "Copied."
        : "This browser does not let a page copy here; select the text instead.");
    });
  }
}

// Browsers have a clipboard only for pages that came by TLS or from this machine.
async function copied(content) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(content);
    return true;
  }
  const area = document.createElement("textarea");
  area.value = content;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

let announced = 0;
// For those who listen instead of look; not more than one sentence in ten seconds.
export function announce(text) {
  if (performance.now() - announced < 10_000) return;
  announced = performance.now();
  document.getElementById("announce").textContent = text;
}

function toast(text) {
  document.querySelector(".toast")?.remove();
  const element = document.createElement("div");
  element.className = "toast";
  element.setAttribute("role", "status");
  element.textContent = text;
  document.body.append(element);
  setTimeout(() => element.remove(), 5000);
}
