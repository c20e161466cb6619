// Pieces of a page that the server renders again when something changed. Only what differs is
// touched, so that focus, selection and scroll position stay where they are.

const root = document.body.dataset.root;
const waiting = new Map();

// Fetches ?fragment=NAME of the present address and puts the difference in place. Calls that come
// while one is under way become one more.
export async function swap(piece) {
  const name = piece.dataset.live;
  if (waiting.has(name)) {
    waiting.set(name, true);
    return;
  }
  waiting.set(name, false);
  try {
    const url = new URL(location.href);
    url.searchParams.set("fragment", name);
    const response = await fetch(url, { headers: { accept: "text/html" } });
    if (response.redirected) location.reload(); // logged out meanwhile: the login page
    if (response.ok) {
      const fresh = document.createElement("div");
      fresh.innerHTML = await response.text(); // escaped by the server's templates
      patch(piece, fresh);
      document.dispatchEvent(new CustomEvent("swapped", { detail: piece }));
    } else if (response.status < 500) toast(`This cannot be shown: ${response.statusText}`);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // the server is away; the next event tries again
  } finally {
    const again = waiting.get(name);
    waiting.delete(name);
    if (again) setTimeout(() => swap(piece), 300);
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
    if (!wanted.hasAttribute(name)) node.removeAttribute(name);
  }
  for (const { name, value } of [...wanted.attributes]) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  if (node === document.activeElement && "value" in node) return;
  patch(node, wanted);
}

export async function json(path) {
  const response = await fetch(root + path, { headers: { accept: "application/json" } });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail ?? response.statusText);
  return body;
}

// Runs `work` at most once every `pause` milliseconds; calls in between become one at the end.
export function throttled(work, pause) {
  let timer = null;
  let last = 0;
  return () => {
    if (timer) return;
    const wait = Math.max(0, last + pause - performance.now());
    timer = setTimeout(() => {
      timer = null;
      last = performance.now();
      work();
    }, wait);
  };
}

let announced = 0;
// For those who listen instead of look; not more than one sentence in ten seconds.
export function announce(text) {
  if (performance.now() - announced < 10_000) return;
  announced = performance.now();
  document.getElementById("announce").textContent = text;
}

export function toast(text) {
  document.querySelector(".toast")?.remove();
  const element = document.createElement("div");
  element.className = "toast";
  element.setAttribute("role", "status");
  element.textContent = text;
  document.body.append(element);
  setTimeout(() => element.remove(), 5000);
}
