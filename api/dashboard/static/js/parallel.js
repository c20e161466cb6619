// Parallel coordinates: one axis a hyperparameter, one line a trial, coloured by how good it is.
// Dragging along an axis keeps what lies inside; the "brush" event tells the page, which filters its
// table on the server. By keyboard: left and right choose an axis, up and down move the kept range
// (with Shift its lower end), Delete lets go.

import { scaled, spread } from "./scale.js";
import { Surface, dot, fitted, line } from "./surface.js";

const PAD = { left: 46, right: 46, top: 36, bottom: 16 };
const NARROWEST = 60; // pixels from one axis to the next; more of them are scrolled
const LABEL = 15; // pixels from one label of an axis to the next
const NUDGE = 0.1; // of an axis, by a key

export class Parallel extends Surface {
  constructor(figure) {
    super(figure);
    this.axes = [];
    this.rows = [];
    this.brushes = new Map(); // index of an axis -> [low, high], shares of its length
    this.chosen = -1; // the axis that keys move
    this.minimize = true;
    this.top.addEventListener("pointerdown", (event) => this.grab(event));
    this.top.addEventListener("pointermove", (event) => this.drag(event));
    this.top.addEventListener("pointerup", () => this.drop());
    this.top.addEventListener("pointercancel", () => this.undo());
    // A finger on an axis keeps a range; one between two of them scrolls the page.
    this.top.addEventListener("touchstart", (event) => {
      if (this.place(event.touches[0]).near) event.preventDefault();
    }, { passive: false });
    this.top.addEventListener("keydown", (event) => this.key(event));
    this.top.addEventListener("blur", () => {
      this.chosen = -1;
      this.hideTip();
      this.retouch();
    });
  }

  // axes: [{label, kind, choices, domain}], the last is the objective; rows: values, one an axis.
  set(axes, rows, minimize) {
    this.axes = axes.map((axis, index) => {
      const log = axis.kind === "log";
      const ends = axis.domain ?? spread(rows.map((row) => row[index]), log) ?? [log ? 0.1 : 0, 1];
      return scaled(axis, ends, [0, 1]);
    });
    this.rows = rows;
    this.minimize = minimize;
    this.plot.style.minWidth = `${PAD.left + (axes.length - 1) * NARROWEST + PAD.right}px`;
    this.redraw();
  }

  clear() {
    this.brushes.clear();
    this.tell();
  }

  get step() {
    return (this.width - PAD.left - PAD.right) / Math.max(1, this.axes.length - 1);
  }

  across(index) {
    return PAD.left + index * this.step;
  }

  up(share) {
    return this.height - PAD.bottom - share * (this.height - PAD.top - PAD.bottom);
  }

  paint(pen) {
    const goal = this.axes.length - 1;
    if (goal < 0) return;
    // Trials far worse than all others must not take the colours of those.
    const order = this.rows.map((row) => row[goal]).filter(Number.isFinite).sort((a, b) => a - b);
    const rank = (value) => {
      let [low, high] = [0, order.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (order[middle] < value) low = middle + 1;
        else high = middle;
      }
      return low / Math.max(1, order.length - 1);
    };
    const drawn = this.rows.map((row) => ({ row, kept: this.kept(row),
      good: this.minimize ? 1 - rank(row[goal]) : rank(row[goal]) }));
    drawn.sort((a, b) => a.kept - b.kept || a.good - b.good);
    const crowd = Math.min(1, Math.sqrt(60 / Math.max(1, drawn.length)));
    for (const { row, kept, good } of drawn) {
      const path = [];
      row.forEach((value, index) => {
        const share = value === null || value === undefined ? NaN : this.axes[index].at(value);
        if (Number.isFinite(share)) path.push([this.across(index), this.up(share)]);
      });
      pen.strokeStyle = pen.fillStyle = kept ? this.ramp(good) : this.color("chart-dim");
      pen.globalAlpha = kept ? Math.max(0.25, crowd) * (0.35 + 0.65 * good) : 0.18;
      pen.lineWidth = kept && good > 0.9 ? 2 : 1;
      line(pen, path);
      if (path.length === 1) dot(pen, ...path[0], 2);
    }
    pen.globalAlpha = 1;
    pen.textAlign = "center";
    this.axes.forEach((axis, index) => this.axis(pen, axis, index));
  }

  axis(pen, axis, index) {
    const x = this.across(index);
    pen.strokeStyle = this.color("line-strong");
    pen.lineWidth = 1;
    line(pen, [[x, this.up(0)], [x, this.up(1)]]);
    pen.fillStyle = this.color("text");
    const low = index % 2 && this.step < 90; // names of neighbours take turns in height
    pen.textAlign = index === 0 ? "left" : index === this.axes.length - 1 ? "right" : "center";
    const edge = index === 0 ? 0 : index === this.axes.length - 1 ? this.width : x;
    // Half of its own room at each side of its axis; of the outer ones one side ends at the edge.
    const own = this.step * (this.step < 90 ? 1.7 : 1);
    pen.fillText(fitted(pen, axis.label, (edge === x ? own : PAD.left + own / 2) - 6), edge,
      low ? 26 : 12);
    pen.fillStyle = this.color("muted");
    pen.strokeStyle = this.color("surface");
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    // Those of the first and the last axis stand between it and the edge as far as they fit there.
    const room = this.step * (edge === x ? 1 : 0.5) + (edge === x ? 0 : PAD.left) - 4;
    const rows = Math.floor((this.up(0) - this.up(1)) / LABEL);
    for (const [value, text] of axis.ticks(axis.kind === "category" ? rows : 5)) {
      const label = fitted(pen, text, room);
      pen.strokeText(label, edge, this.up(axis.at(value)) + 4);
      pen.fillText(label, edge, this.up(axis.at(value)) + 4);
    }
  }

  over(pen) {
    for (const [index, [low, high]] of this.brushes) {
      pen.fillStyle = this.color("accent");
      pen.globalAlpha = 0.3;
      pen.fillRect(this.across(index) - 9, this.up(high), 18, this.up(low) - this.up(high));
    }
    pen.globalAlpha = 1;
    if (this.chosen >= 0) {
      pen.strokeStyle = this.color("accent");
      pen.lineWidth = 3;
      line(pen, [[this.across(this.chosen), this.up(0)], [this.across(this.chosen), this.up(1)]]);
    }
  }

  kept(row) {
    for (const [index, [low, high]] of this.brushes) {
      const share = this.axes[index].at(row[index]);
      if (!(share >= low - 1e-9 && share <= high + 1e-9)) return false;
    }
    return true;
  }

  place(event) {
    const [x, y] = this.spot(event);
    const share = (this.up(0) - y) / (this.up(0) - this.up(1));
    const index = Math.min(this.axes.length - 1, Math.max(0, Math.round((x - PAD.left) / this.step)));
    return { index, near: Math.abs(this.across(index) - x) < Math.min(24, this.step / 4),
      share: Math.min(1, Math.max(0, share)) };
  }

  grab(event) {
    const { index, near, share } = this.place(event);
    if (!near) return;
    this.held = { index, start: share, moved: false, before: this.brushes.get(index) };
    this.top.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  drag(event) {
    const { index, near, share } = this.place(event);
    this.top.classList.toggle("pointing", near && !this.held);
    if (!this.held) return;
    this.held.moved ||= Math.abs(share - this.held.start) > 0.02;
    if (!this.held.moved) return;
    const ends = [share, this.held.start].sort((a, b) => a - b);
    this.brushes.set(this.held.index, ends);
    this.redraw();
    if (index === this.held.index) this.hideTip();
  }

  drop() {
    if (!this.held) return;
    if (!this.held.moved) this.brushes.delete(this.held.index); // a click lets go of the axis
    this.held = null;
    this.tell();
  }

  undo() {
    if (!this.held) return;
    const { index, before } = this.held;
    if (before) this.brushes.set(index, before);
    else this.brushes.delete(index);
    this.held = null;
    this.redraw();
  }

  key(event) {
    const last = this.axes.length - 1;
    const brush = this.brushes.get(this.chosen) ?? [0, 1];
    if (event.key === "ArrowRight") this.chosen = Math.min(last, this.chosen + 1);
    else if (event.key === "ArrowLeft") this.chosen = Math.max(0, this.chosen - 1);
    else if (this.chosen >= 0 && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      const end = event.shiftKey ? 0 : 1;
      const moved = brush[end] + (event.key === "ArrowUp" ? NUDGE : -NUDGE);
      const limits = end ? [brush[0] + NUDGE, 1] : [0, brush[1] - NUDGE];
      const next = [...brush];
      next[end] = Math.min(limits[1], Math.max(limits[0], moved));
      this.brushes.set(this.chosen, next);
      this.tell();
    } else if (this.chosen >= 0 && (event.key === "Delete" || event.key === "Backspace")) {
      this.brushes.delete(this.chosen);
      this.tell();
    } else return;
    event.preventDefault();
    const window = this.plot.parentElement;
    window.scrollLeft = this.across(this.chosen) - window.clientWidth / 2;
    const range = this.brushes.get(this.chosen);
    this.showTip([this.axes[this.chosen].label, range ? this.words(this.chosen, range)
      : "everything kept"], this.across(this.chosen), PAD.top + 20);
    this.retouch();
  }

  words(index, [low, high]) {
    const axis = this.axes[index];
    if (axis.choices) return `kept: ${this.within(axis, low, high).join(", ") || "nothing"}`;
    return `kept: ${axis.text(axis.back(low))} to ${axis.text(axis.back(high))}`;
  }

  within(axis, low, high) {
    return axis.choices.filter((choice) => axis.at(choice) >= low && axis.at(choice) <= high);
  }

  tell() {
    this.redraw();
    const wanted = [...this.brushes].map(([index, [low, high]]) => {
      const axis = this.axes[index];
      const goal = index === this.axes.length - 1;
      if (axis.choices) return { name: axis.label, choices: this.within(axis, low, high) };
      return { name: axis.label, goal, low: axis.back(low), high: axis.back(high) };
    });
    const kept = this.rows.filter((row) => this.kept(row)).length;
    this.dispatchEvent(new CustomEvent("brush", { detail: { wanted, kept } }));
  }
}
