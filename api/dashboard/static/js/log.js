// What a trial's script printed: its end, which grows while it runs.

import { json, throttled } from "./pieces.js";

const LINES = 500; // at first; all of it is one link away
const PAUSE = 2000;

// `card` is shown once there is a log. The answer is to be called when the trial has news.
export function follow(card) {
  const [place, note, attempts, stay] = ["log-text", "log-note", "log-attempt", "log-follow"]
    .map((id) => card.querySelector(`#${id}`));
  const path = card.dataset.log;
  if (!path) return () => {};
  let cursor = 0;
  let ended = false;

  function attempted(found) {
    attempts.hidden = found.attempts.length < 2;
    if (attempts.options.length === found.attempts.length) return;
    attempts.replaceChildren(...found.attempts.map((one) => new Option(`attempt ${one}`, one)));
    attempts.value = found.attempt;
  }

  const more = throttled(async () => {
    const query = new URLSearchParams(cursor ? { after: cursor } : { tail: LINES });
    if (attempts.value) query.set("attempt", attempts.value);
    let found;
    try {
      found = await json(`${path}?${query}`);
    } catch (error) {
      note.textContent = `The log cannot be read: ${error.message}.`;
      return;
    }
    if (!found.attempts.length) return; // it is no script's
    card.hidden = false;
    attempted(found);
    place.append(found.text);
    cursor = found.cursor;
    ended = found.ended;
    note.textContent = ended ? "It has ended." : "It grows while the script runs.";
    if (stay.checked) place.scrollTop = place.scrollHeight;
    if (!ended && !document.hidden) more();
  }, PAUSE);

  attempts.addEventListener("change", () => {
    place.replaceChildren();
    cursor = 0;
    more();
  });
  document.addEventListener("visibilitychange", () => !document.hidden && !ended && cursor && more());
  more();
  return more;
}
