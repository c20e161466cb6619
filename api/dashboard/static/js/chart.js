// A chart: two axes, and series of any kind in `marks.js` over them, on a canvas: thousands of
// curves stay quick where one element each would not.
//
//   const chart = new Chart(figure, { x: { label: "step", integer: true }, y: { label: "loss" } });
//   chart.set({ series: [{ kind: "line", label: "trial 3", points: [[1, 0.9], [2, 0.5]], tone: 0 }] });
//
// An axis is as in `scale.js`, with `domain` where it shall not follow the data, and `robust` where
// a few values far off may stay outside. A series may have `href(index)`, where a click or Enter
// leads, `tell(index)` and `details(index)`, what its tip says instead of the two numbers and beside
// them, `level`, the higher the later it is drawn, and `mute: true`, which no pointer finds.

import { marks } from "./marks.js";
import { robust, scaled, spread } from "./scale.js";
import { Surface, dot, fitted, line } from "./surface.js";

const REACH = 28; // pixels from the pointer to the nearest point that still counts
const PAD = { right: 12, top: 22, bottom: 36 };

export class Chart extends Surface {
  constructor(figure, axes = {}) {
    super(figure);
    this.axes = { x: { label: "", ...axes.x }, y: { label: "", robust: true, ...axes.y } };
    this.series = [];
    this.focus = null;
    this.top.addEventListener("pointermove", (event) => this.point(event));
    this.top.addEventListener("pointerleave", () => this.leave());
    this.top.addEventListener("blur", () => this.leave());
    this.top.addEventListener("click", (event) => {
      const before = this.focus;
      this.point(event);
      // A finger has no hover: its first tap tells, the second one on the same spot goes there.
      const again = before?.series === this.focus?.series && before?.index === this.focus?.index;
      if (event.pointerType !== "touch" || again) this.follow();
    });
    this.top.addEventListener("keydown", (event) => this.key(event));
  }

  // What to show from now on: series, and what changes of the axes.
  set({ series, x, y }) {
    if (x) this.axes.x = { ...this.axes.x, ...x };
    if (y) this.axes.y = { ...this.axes.y, ...y };
    const kept = this.focus?.series.key;
    this.series = series;
    const same = series.find((one) => one.key === kept);
    this.focus = same && this.focus && this.focus.index < marks[same.kind].count(same)
      ? { series: same, index: this.focus.index } : null;
    if (!this.focus) this.hideTip();
    this.measure();
    this.redraw();
  }

  // After new data has been drawn, the tip tells of that.
  draw() {
    super.draw();
    if (!this.focus || !this.box) return;
    const { series, index } = this.focus;
    this.look(this.focus, ...marks[series.kind].spot(this, series, index));
  }

  // The ends of both axes; how many values lie outside of them.
  measure() {
    const [xs, ys] = [[], []];
    for (const one of this.series) {
      marks[one.kind].each(one, (x, y) => {
        xs.push(x);
        ys.push(y);
      });
    }
    this.beyond = 0;
    const ends = (axis, values) => {
      if (axis.kind === "category") return axis.choices.length ? [0, 1] : null;
      if (axis.domain) return axis.domain;
      const log = axis.kind === "log";
      if (!axis.robust) return spread(values, log);
      const found = robust(values, log);
      if (!found) return null;
      this.beyond += found.beyond;
      return [found.low, found.high];
    };
    this.ends = { x: ends(this.axes.x, xs), y: ends(this.axes.y, ys) };
    this.placeless = this.axes.y.kind === "log" ? ys.filter((y) => y <= 0).length : 0;
    if (!xs.length) this.ends = { x: null, y: null };
  }

  paint(pen) {
    if (!this.ends?.x || !this.ends.y) {
      this.box = null;
      pen.fillStyle = this.color("muted");
      pen.textAlign = "center";
      if (!this.ends || this.figure.dataset.trouble) return; // nobody knows yet what there is
      const text = this.placeless ? "No value is above 0, where a logarithmic axis begins."
        : this.figure.dataset.empty || "Nothing to show yet.";
      wrapped(pen, text, this.width - 24).forEach((part, index) =>
        pen.fillText(part, this.width / 2, this.height / 2 + 16 * index));
      return;
    }
    this.frame(pen);
    pen.save();
    pen.beginPath();
    pen.rect(this.box.left - 4, this.box.top - 4, this.box.right - this.box.left + 8,
      this.box.bottom - this.box.top + 8);
    pen.clip();
    const order = [...this.series].sort((a, b) => (a.level ?? 0) - (b.level ?? 0));
    for (const one of order) {
      marks[one.kind].paint(this, pen, one, false);
      pen.globalAlpha = 1;
    }
    pen.restore();
  }

  frame(pen) {
    const { x, y } = this.axes;
    const rows = Math.max(3, Math.floor((this.height - PAD.top - PAD.bottom) / 45));
    // The room for the labels is known only once they are.
    const labels = scaled(y, this.ends.y, [1, 0]).ticks(y.kind === "category" ? 1000 : rows);
    const widest = Math.max(...labels.map(([, label]) => pen.measureText(label).width), 0);
    const left = Math.min(Math.ceil(widest), this.width * 0.35) + 12;
    this.box = { left, right: this.width - PAD.right, top: PAD.top, bottom: this.height - PAD.bottom };
    this.x = scaled(x, this.ends.x, [this.box.left, this.box.right]);
    this.y = scaled(y, this.ends.y, [this.box.bottom, this.box.top]);
    pen.lineWidth = 1;
    pen.strokeStyle = this.color("chart-grid");
    pen.fillStyle = this.color("muted");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const [value, label] of labels) {
      if (y.kind !== "category") {
        line(pen, [[this.box.left, this.y.at(value)], [this.box.right, this.y.at(value)]]);
      }
      pen.fillText(fitted(pen, label, left - 8), this.box.left - 7, this.y.at(value));
    }
    pen.textBaseline = "top";
    pen.textAlign = "center";
    const columns = Math.max(2, Math.floor((this.box.right - this.box.left) / 76));
    let end = -Infinity;
    for (const [value, whole] of this.x.ticks(columns)) {
      const label = fitted(pen, whole, this.width);
      const half = pen.measureText(label).width / 2;
      const at = Math.max(half, Math.min(this.x.at(value), this.width - half));
      if (at - half < end + 6) continue;
      end = at + half;
      pen.fillText(label, at, this.box.bottom + 6);
    }
    pen.textAlign = "right";
    pen.fillText(fitted(pen, named(x), this.box.right), this.box.right, this.box.bottom + 21);
    pen.textAlign = "left";
    pen.fillText(fitted(pen, named(y), this.width), 0, 0);
  }

  over(pen) {
    if (!this.focus || !this.box) return;
    const { series, index } = this.focus;
    const mark = marks[series.kind];
    if (series.kind === "line" || series.kind === "step") {
      pen.fillStyle = this.color("surface");
      pen.globalAlpha = 0.6;
      const { left, right, top, bottom } = this.box;
      pen.fillRect(left, top, right - left, bottom - top);
      pen.globalAlpha = 1;
      pen.save();
      pen.beginPath();
      pen.rect(left - 4, top - 4, right - left + 8, bottom - top + 8);
      pen.clip();
      mark.paint(this, pen, series, true);
      pen.restore();
      pen.globalAlpha = 1;
    }
    const [x, y] = mark.spot(this, series, index);
    pen.fillStyle = pen.strokeStyle = this.color("text");
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, 6, 0, 2 * Math.PI);
    pen.stroke();
    dot(pen, x, y, 2);
  }

  // What is pointed at

  point(event) {
    if (!this.box) return;
    const [mx, my] = this.spot(event);
    let best = null;
    for (const series of this.series) {
      if (series.mute) continue;
      const found = marks[series.kind].near(this, series, mx, my, REACH);
      if (found && !(best && best.distance <= found.distance)) best = { series, ...found };
    }
    this.look(best, mx, my);
  }

  look(found, x, y) {
    this.focus = found && { series: found.series, index: found.index };
    this.top.classList.toggle("pointing", Boolean(found?.series.href));
    if (!found) this.hideTip();
    else {
      const { series, index } = found;
      const tell = series.tell ?? ((place) => marks[series.kind].tell(this, series, place));
      const lines = [series.label, ...tell(index), ...(series.details?.(index) ?? [])];
      this.showTip(lines.filter(Boolean), x, y);
    }
    this.retouch();
  }

  leave() {
    this.look(null);
  }

  follow() {
    const target = this.focus?.series.href?.(this.focus.index);
    if (target) location.href = target;
  }

  key(event) {
    const walkable = this.series.filter((one) => !one.mute && marks[one.kind].count(one));
    if (!walkable.length || !this.box) return;
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key === "Escape") this.leave();
    else if (event.key === "Enter") this.follow();
    else if (moves[event.key]) {
      const [across, along] = moves[event.key];
      let place = walkable.indexOf(this.focus?.series);
      let index = place < 0 ? 0 : this.focus.index + along;
      place = place < 0 ? 0 : (place + across + walkable.length) % walkable.length;
      const series = walkable[place];
      const count = marks[series.kind].count(series);
      index = Math.min(count - 1, Math.max(0, index));
      this.look({ series, index }, ...marks[series.kind].spot(this, series, index));
    } else return;
    event.preventDefault();
  }
}

const named = (axis) => axis.label + (axis.kind === "log" ? " (log)" : "");

function wrapped(pen, text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (pen.measureText(longer).width <= width || !lines.at(-1)) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}
