// Optimization history: the value of each finished trial, and the best so far.

import { Chart } from "../chart.js";
import { told } from "../curves.js";
import { counted } from "../numbers.js";

const root = document.body.dataset.root;

// A series of points, one a trial, that leads to the trial and tells its configuration.
export function cloud(rows, place, more) {
  return { kind: "points", points: rows.map(place), href: (index) => `${root}/trials/${rows[index].id}`,
    details: (index) => [`trial ${rows[index].number}`, ...told(rows[index].params)], ...more };
}

export function history(figure) {
  const chart = new Chart(figure, { x: { label: "trial", integer: true } });
  return (finished) => {
    const rows = [...finished.rows.values()].filter((row) => row.values[0] !== null)
      .sort((a, b) => a.number - b.number);
    const drawn = (state, more) => cloud(rows.filter((row) => row.state === state),
      (row) => [row.number, row.values[0]], { key: state, label: state, ...more });
    const best = [...finished.best];
    const last = rows.at(-1)?.number;
    if (best.length && last > best.at(-1)[0]) best.push([last, best.at(-1)[1]]);
    chart.set({ series: [drawn("pruned", { dim: true, level: -1 }), drawn("complete", { tone: 2 }),
      { kind: "step", key: "best", label: "best so far", tone: 1, width: 2, points: best, mute: true }],
    y: { label: finished.metric } });
    const found = best.length ? `the best so far is ${finished.said(best.at(-1)[1])}`
      : `none ${finished.complete.length ? "of the complete ones keeps the constraint" : "is complete"}`;
    chart.say(finished.count ? `${finished.thinned}; ${found}.`
      + `${chart.beyond ? ` ${counted(chart.beyond, "point")} far off beyond the frame.` : ""}` : "");
  };
}
