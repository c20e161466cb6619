// What finished trials say about hyperparameters: one by one (slices), two at a time (contour and
// rank), and, where there are several objectives, which trials are on the front.

import { Chart } from "../chart.js";
import { counted } from "../numbers.js";
import { json } from "../pieces.js";
import { cloud } from "./history.js";

export function axis({ name, choices, log, low, high }) {
  if (choices) return { label: name, kind: "category", choices };
  const domain = low < high ? [low, high] : undefined;
  return { label: name, kind: log ? "log" : "linear", domain };
}

// The figures are in the page, so that nothing moves when they are drawn, but for what no study file
// told of.
export function slices(place) {
  const template = place.querySelector("template");
  const figures = new Map([...place.querySelectorAll("figure")].map((one) => [one.dataset.name, one]));
  const charts = new Map();

  function added(name, metric) {
    const figure = template.content.firstElementChild.cloneNode(true);
    figure.dataset.label = `${metric} over ${name}`;
    place.append(figure);
    return figure;
  }

  return (finished) => {
    const complete = finished.complete;
    const [first, last] = [complete[0]?.number ?? 0, complete.at(-1)?.number ?? 1];
    for (const one of finished.axes) {
      if (!charts.has(one.name)) {
        const figure = figures.get(one.name) ?? added(one.name, finished.metric);
        charts.set(one.name, new Chart(figure, { x: axis(one) }));
      }
      const rows = complete.filter((row) => row.params[one.name] !== null);
      charts.get(one.name).set({ x: axis(one), y: { label: finished.metric },
        series: [cloud(rows, (row) => [row.params[one.name], row.values[0]], { key: "trials",
          label: "complete", size: 2.5,
          shades: rows.map((row) => (row.number - first) / Math.max(1, last - first)) })] });
    }
  };
}

// `card` holds the selects #pair-x, #pair-y and #pair-kind, and a figure.
export function pair(card, study) {
  const chart = new Chart(card.querySelector("figure"), { y: { robust: false } });
  const [x, y, kind] = ["x", "y", "kind"].map((name) => card.querySelector(`#pair-${name}`));
  let known = null;

  function fill(select, names, chosen) {
    if (select.options.length === names.length) return;
    const kept = select.value || chosen;
    select.replaceChildren(...names.map((name) => new Option(name)));
    select.value = kept;
  }

  async function draw() {
    const axes = new Map(known.axes.map((one) => [one.name, one]));
    if (axes.size < 2) return;
    if (x.value === y.value) y.value = [...axes.keys()].find((name) => name !== x.value);
    const [across, up] = [x.value, y.value];
    const rows = known.complete.filter((row) => row.params[across] !== null && row.params[up] !== null);
    const ranks = known.ranks(rows);
    const best = rows.reduce((a, b) => (ranks.get(a?.id) > ranks.get(b.id) ? a : b), null);
    const contour = kind.value === "contour";
    const points = cloud(rows, (row) => [row.params[across], row.params[up]], { key: "trials",
      label: contour ? "complete" : "coloured by rank", size: contour ? 1.5 : 4, tone: 7,
      shades: contour ? undefined : rows.map((row) => ranks.get(row.id)) });
    const details = points.details;
    points.tell = (index) => [`${known.metric} ${known.said(rows[index].values[0])}`];
    points.details = details;
    const series = [points];
    if (best) {
      series.push({ ...cloud([best], (row) => [row.params[across], row.params[up]], { key: "best",
        label: "the best", tone: 1, size: 5 }), tell: () => [`${known.metric} ${known.said(best.values[0])}`] });
    }
    if (contour) {
      try {
        const found = await json(`/api/v1/studies/${study}/landscape?${new URLSearchParams({ x: across, y: up })}`);
        if (across !== x.value || up !== y.value || kind.value !== "contour") return;
        series.unshift({ kind: "cells", key: "field", columns: found.columns, rows: found.rows,
          shades: found.shades });
        chart.say(found.trials ? `Colours: the mean of ${known.metric} around each place, from `
          + `${known.said(found.worst)} or worse to ${known.said(found.best)}, over `
          + `${counted(found.trials, "complete trial")}; blank where none is near. Dots: trials; the large one is the best.`
          : "No trial is complete.");
      } catch (error) {
        if (across !== x.value || up !== y.value || kind.value !== "contour") return;
        chart.say(`The contour cannot be read: ${error.message}.`);
      }
    } else if (!rows.length) chart.say("No trial is complete.");
    else {
      chart.say(`Each dot is a trial, coloured by its rank among ${rows.length}; the large one is the best.`);
    }
    chart.set({ series, x: axis(axes.get(across)), y: axis(axes.get(up)) });
  }

  for (const select of [x, y, kind]) select.addEventListener("change", draw);
  return (finished) => {
    known = finished;
    const names = finished.axes.map((one) => one.name);
    fill(x, names, names[0]);
    fill(y, names, names[1]);
    return draw();
  };
}

// `card` holds the selects #front-x and #front-y and a figure.
export function front(card) {
  const chart = new Chart(card.querySelector("figure"), { x: { robust: true } });
  const [x, y] = ["x", "y"].map((name) => card.querySelector(`#front-${name}`));
  let known = null;

  function draw() {
    const [across, up] = [Number(x.value), Number(y.value)];
    const place = (row) => [row.values[across], row.values[up]];
    const on = known.complete.filter((row) => known.front.has(row.id))
      .sort((a, b) => a.values[across] - b.values[across]);
    const off = known.complete.filter((row) => !known.front.has(row.id));
    const flat = known.metrics.length === 2;
    chart.set({ x: { label: known.metrics[across] }, y: { label: known.metrics[up] }, series: [
      cloud(off, place, { key: "others", label: "beaten by another", dim: true }),
      ...(flat ? [{ kind: "step", key: "line", tone: 1, width: 1, points: on.map(place), mute: true }] : []),
      cloud(on, place, { key: "front", label: "on the front", tone: 1, size: 4 })] });
    chart.say(known.complete.length ? `${known.front.size} of ${counted(known.count, "finished trial")} on the `
      + "front: no other trial is at least as good in every objective and better in one. Good is "
      + `${known.metrics.map((name, at) => `${known.minimize[at] ? "little" : "much"} ${name}`).join(", ")}.` : "");
  }

  for (const select of [x, y]) select.addEventListener("change", draw);
  return (finished) => {
    known = finished;
    draw();
  };
}
