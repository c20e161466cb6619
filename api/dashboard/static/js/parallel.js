// Parallel coordinates: one axis a hyperparameter, one line a trial, coloured by its value.
// Dragging along an axis keeps what lies inside; the "brush" event tells the page, which filters
// its table on the server.

import { dot, line } from "./chart.js";
import { number, ticks } from "./numbers.js";

const PAD = { left: 46, right: 46, top: 34, bottom: 16 };

export class Parallel extends EventTarget {
  constructor(figure) {
    super();
    this.figure = figure;
    this.plot = figure.querySelector(".plot");
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", figure.dataset.label);
    this.plot.replaceChildren(this.canvas);
    this.axes = [];
    this.rows = [];
    this.brushes = new Map();
    this.minimize = true;
    new ResizeObserver(() => this.draw()).observe(this.plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.canvas.addEventListener("pointerdown", (event) => this.grab(event));
    this.canvas.addEventListener("pointermove", (event) => this.drag(event));
    this.canvas.addEventListener("pointerup", () => this.drop());
    this.canvas.addEventListener("pointercancel", () => this.drop());
  }

  // axes: [{name, log, choices}], the last is the objective; rows: arrays of values, one an axis.
  set(axes, rows, minimize) {
    this.axes = axes.map((axis, index) => this.scaled(axis, rows.map((row) => row[index])));
    this.rows = rows;
    this.minimize = minimize;
    this.draw();
  }

  clear() {
    this.brushes.clear();
    this.tell();
  }

  scaled(axis, values) {
    if (axis.choices) {
      const span = Math.max(1, axis.choices.length - 1);
      return { ...axis, at: (value) => axis.choices.findIndex((c) => c === value) / span,
        marks: axis.choices.map((choice, index) => [index / span, String(choice)]) };
    }
    const numbers = values.filter(Number.isFinite);
    let low = Math.min(...numbers);
    let high = Math.max(...numbers);
    const log = axis.log && low > 0;
    if (!numbers.length) [low, high] = [0, 1];
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
    const put = log ? Math.log10 : (value) => value;
    const [bottom, top] = [put(low), put(high)];
    return { ...axis, at: (value) => (put(value) - bottom) / (top - bottom),
      from: (share) => log ? 10 ** (bottom + share * (top - bottom)) : low + share * (high - low),
      marks: ticks(low, high, 5, log).map((value) => [(put(value) - bottom) / (top - bottom),
        number(value, 3)]) };
  }

  draw() {
    const [width, height] = [this.plot.clientWidth, this.plot.clientHeight];
    if (!width || !height || !this.axes.length) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(this.figure);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const step = (width - PAD.left - PAD.right) / Math.max(1, this.axes.length - 1);
    this.x = (index) => PAD.left + index * step;
    this.y = (share) => height - PAD.bottom - share * (height - PAD.top - PAD.bottom);
    this.height = height;
    const goal = this.axes.length - 1;
    const drawn = this.rows.map((row) => ({ row, kept: this.kept(row),
      good: this.minimize ? 1 - this.axes[goal].at(row[goal]) : this.axes[goal].at(row[goal]) }));
    drawn.sort((a, b) => a.kept - b.kept || a.good - b.good);
    for (const { row, kept, good } of drawn) {
      const path = [];
      row.forEach((value, index) => {
        const share = value === null || value === undefined ? NaN : this.axes[index].at(value);
        if (Number.isFinite(share) && share >= 0) path.push([this.x(index), this.y(share)]);
      });
      pen.strokeStyle = kept ? color(good > 0.8 ? "chart-0" : good > 0.5 ? "chart-5" : "chart-7")
        : color("chart-dim");
      pen.globalAlpha = kept ? 0.25 + 0.65 * Math.max(0, good) : 0.25;
      pen.lineWidth = kept && good > 0.8 ? 1.8 : 1;
      line(pen, path);
      if (path.length === 1) dot(pen, ...path[0], 2);
    }
    pen.globalAlpha = 1;
    pen.font = `11.5px ${style.fontFamily}`;
    pen.textAlign = "center";
    this.axes.forEach((axis, index) => {
      const x = this.x(index);
      pen.strokeStyle = color("line-strong");
      pen.lineWidth = 1;
      line(pen, [[x, this.y(0)], [x, this.y(1)]]);
      const brush = this.brushes.get(index);
      if (brush) {
        pen.fillStyle = color("accent");
        pen.globalAlpha = 0.28;
        pen.fillRect(x - 9, this.y(brush[1]), 18, this.y(brush[0]) - this.y(brush[1]));
        pen.globalAlpha = 1;
      }
      pen.fillStyle = color("text");
      const title = fit(pen, axis.name, step - 6);
      pen.fillText(title, x, index % 2 && step < 90 ? 26 : 12);
      pen.fillStyle = color("muted");
      pen.strokeStyle = color("surface");
      pen.lineWidth = 3;
      for (const [share, text] of axis.marks) {
        pen.strokeText(text, x, this.y(share) + 4);
        pen.fillText(text, x, this.y(share) + 4);
      }
    });
  }

  kept(row) {
    for (const [index, [low, high]] of this.brushes) {
      const share = this.axes[index].at(row[index]);
      if (!(share >= low - 1e-9 && share <= high + 1e-9)) return false;
    }
    return true;
  }

  place(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const x = event.clientX - bounds.left;
    const share = (this.y(0) - (event.clientY - bounds.top)) / (this.y(0) - this.y(1));
    let index = 0;
    for (let i = 1; i < this.axes.length; i += 1) {
      if (Math.abs(this.x(i) - x) < Math.abs(this.x(index) - x)) index = i;
    }
    return { index, near: Math.abs(this.x(index) - x) < 24, share: Math.min(1, Math.max(0, share)) };
  }

  grab(event) {
    const { index, near, share } = this.place(event);
    if (!near) return;
    this.held = { index, start: share, moved: false };
    this.canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  drag(event) {
    if (!this.held) return;
    const { share } = this.place(event);
    this.held.moved ||= Math.abs(share - this.held.start) > 0.02;
    if (this.held.moved) {
      this.brushes.set(this.held.index, [Math.min(share, this.held.start),
        Math.max(share, this.held.start)]);
      this.draw();
    }
  }

  drop() {
    if (!this.held) return;
    if (!this.held.moved) this.brushes.delete(this.held.index); // a click lets go of the axis
    this.held = null;
    this.tell();
  }

  tell() {
    this.draw();
    const wanted = [...this.brushes].map(([index, [low, high]]) => {
      const axis = this.axes[index];
      if (axis.choices) {
        return { name: axis.name, choices: axis.choices.filter((choice) => axis.at(choice) >= low
          && axis.at(choice) <= high) };
      }
      return { name: axis.name, low: axis.from(low), high: axis.from(high) };
    });
    const kept = this.rows.filter((row) => this.kept(row)).length;
    this.dispatchEvent(new CustomEvent("brush", { detail: { wanted, kept } }));
  }
}

function fit(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && pen.measureText(`${text.slice(0, end)}…`).width > width) end -= 1;
  return `${text.slice(0, end)}…`;
}
