// Which hyperparameters matter, and in what sense.

import { percent } from "../numbers.js";
import { json, text } from "../pieces.js";

const MOST = 12; // bars that are there at once
const SVG = "http://www.w3.org/2000/svg";

function bar(share) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const rect = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries({ width: `${(100 * share).toFixed(2)}%`, height: "100%", rx: 2 })) {
    rect.setAttribute(name, value);
  }
  svg.append(rect);
  return svg;
}

function bars(entries) {
  const list = document.createElement("div");
  list.className = "bars";
  for (const [name, share] of entries) {
    list.append(text("span", name), bar(share), text("span", percent(share), "num"));
  }
  return list;
}

// `card` holds a select #evaluator and a place #importance.
export function importance(card, study) {
  const place = card.querySelector("#importance");
  const evaluator = card.querySelector("#evaluator");
  async function draw() {
    const asked = evaluator.value;
    try {
      const found = await json(`/api/v1/studies/${study}/importances?evaluator=${asked}`);
      if (asked !== evaluator.value) return;
      const entries = Object.entries(found.importances);
      if (!entries.length) {
        place.replaceChildren(text("p", `Nothing to say: ${found.reason}.`, "muted"));
        return;
      }
      const of = found.trials < found.complete ? `a sample of ${found.trials} of ${found.complete}`
        : found.trials;
      const rest = entries.slice(MOST);
      const open = place.querySelector("details")?.open ?? false;
      place.replaceChildren(bars(entries.slice(0, MOST)));
      if (rest.length) {
        const more = document.createElement("details");
        more.open = open;
        const sum = rest.reduce((total, [, share]) => total + share, 0);
        more.append(text("summary", `${rest.length} more, ${percent(sum)} together`, "small"), bars(rest));
        place.append(more);
      }
      place.append(text("p", found.meaning, "small"),
        text("p", `${found.title} over ${of} complete trials.`, "small muted"));
    } catch (error) {
      if (asked !== evaluator.value) return;
      place.replaceChildren(text("p", `The importances cannot be computed: ${error.message}.`, "muted"));
    }
  }
  evaluator.addEventListener("change", () => {
    place.replaceChildren(text("p", "Computing…", "muted"));
    draw();
  });
  return draw;
}
