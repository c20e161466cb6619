// What a trial's script printed: its end, which grows while it runs.

import { json, throttled } from "./pieces.js";

const LINES = 500; // at first; a button brings all that is kept
const PAUSE = 2000;
const AGAIN = 5000; // after a failure
const MOST = 2000; // pieces on the page; a run may print for days
const COLOURS = /\x1b\[[0-9;]*[A-Za-z]/g; // as terminals know them

// The answer is to be called when the trial has news; without a card there is no log.
export function follow(card) {
  if (!card) return () => {};
  const [place, note, attempts, stay, all] = ["text", "note", "attempt", "follow", "all"]
    .map((name) => card.querySelector(`#log-${name}`));
  const path = card.dataset.log;
  let cursor = 0;
  let shown = null; // the attempt
  let chosen = null; // by hand; otherwise the last one
  let whole = false;
  let ended = false;
  let generation = 0;

  function anew() {
    generation += 1;
    place.replaceChildren();
    cursor = 0;
    more();
  }

  function written(found) {
    if (found.attempt !== shown) place.replaceChildren();
    shown = found.attempt;
    if (attempts.options.length !== found.attempts.length) {
      attempts.replaceChildren(...found.attempts.map((one) => new Option(`attempt ${one}`, one)));
    }
    attempts.hidden = found.attempts.length < 2;
    attempts.value = shown;
    if (!cursor && !whole) all.hidden = found.text.split("\n").length < LINES;
    if (found.text) place.append(found.text.replace(COLOURS, ""));
    while (place.childNodes.length > MOST) place.firstChild.remove();
    if (stay.checked) place.scrollTop = place.scrollHeight;
    ({ cursor, ended } = found);
    if (!found.attempts.length) note.textContent = "Nothing printed yet.";
    else note.textContent = ended ? "It has ended." : "It grows while the script runs.";
  }

  const more = throttled(async () => {
    const query = new URLSearchParams(cursor ? { after: cursor } : whole ? {} : { tail: LINES });
    if (chosen) query.set("attempt", chosen);
    const mine = generation;
    try {
      const found = await json(`${path}?${query}`);
      if (mine !== generation) return; // asked anew meanwhile
      written(found);
    } catch (error) {
      note.textContent = `The log cannot be read: ${error.message}.`;
      setTimeout(more, AGAIN);
      return;
    }
    if (!ended && !document.hidden) more();
  }, PAUSE);

  attempts.addEventListener("change", () => {
    chosen = attempts.value;
    anew();
  });
  all.addEventListener("click", () => {
    whole = true;
    all.hidden = true;
    anew();
  });
  document.addEventListener("visibilitychange", () => !document.hidden && !ended && more());
  more();
  return more;
}
