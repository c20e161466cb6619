// The table of trials: picking some to compare, and choosing its columns. Sorting, filtering and
// paging are links that the server answers (`page.js`).

const root = document.body.dataset.root;
const STORED = "tuner.columns";

export function picks(page, study) {
  const picked = new Set();
  const compare = document.getElementById("compare");
  const most = Number(compare.dataset.most);
  page.addEventListener("change", (event) => {
    if (!event.target.matches("input.pick")) return;
    if (event.target.checked) picked.add(event.target.value);
    else picked.delete(event.target.value);
    compare.disabled = picked.size < 2 || picked.size > most;
    compare.textContent = picked.size < 2 ? "Compare"
      : picked.size > most ? `Compare at most ${most}, not ${picked.size}` : `Compare ${picked.size}`;
  });
  document.addEventListener("swapped", () => {
    for (const box of page.querySelectorAll("input.pick")) box.checked = picked.has(box.value);
  });
  compare.addEventListener("click", () => {
    location.href = `${root}/studies/${study}/compare?trials=${[...picked].join(",")}`;
  });
}

// Columns that somebody chose are remembered in this browser, a choice a study.
export function columns(study, changed) {
  const key = `${STORED}.${study}`;
  const given = new URL(location.href);
  const stored = localStorage.getItem(key);
  if (stored !== null && !given.searchParams.has("columns")) {
    given.searchParams.set("columns", stored);
    window.history.replaceState(null, "", given);
    changed();
  }
  document.addEventListener("click", (event) => {
    if (event.target.closest("a[data-forget]")) localStorage.removeItem(key);
  });
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-columns]");
    if (!form) return;
    const wanted = [...form.querySelectorAll("input:checked")].map((box) => box.value).join(",");
    localStorage.setItem(key, wanted);
    const url = new URL(location.href);
    url.searchParams.set("columns", wanted);
    window.history.replaceState(null, "", url);
    changed();
  });
}
