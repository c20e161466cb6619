// Lines and points on a canvas: thousands of curves stay quick where one element each would not.
// Colours come from the stylesheet, so light and dark are one design. The figure's caption says in
// words what the picture shows, and the numbers themselves are in the tables of the page.

import { number, ticks } from "./numbers.js";

const REACH = 28; // pixels from the pointer to the nearest point that still counts

export class Chart {
  // `figure` holds `.plot`, into which the canvas goes. Options: xLabel, yLabel, logY, integerX.
  constructor(figure, options = {}) {
    this.figure = figure;
    this.options = { xLabel: "", yLabel: "", logY: false, integerX: false, ...options };
    this.series = [];
    this.focus = null;
    this.plot = figure.querySelector(".plot");
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", figure.dataset.label || "Chart");
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.plot.replaceChildren(this.canvas, this.tip);
    this.scheduled = false;
    new ResizeObserver(() => this.schedule()).observe(this.plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.schedule());
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.canvas.addEventListener("click", (event) => {
      this.hover(event);
      const target = this.focus?.series.href;
      if (target && event.pointerType !== "touch") location.href = target;
    });
  }

  // A series: {key, label, points: [[x, y], ...], tone, dim, kind: "line" | "points" | "step",
  // href, details}. Points are in the order of x; y may be null.
  set(series, options = {}) {
    Object.assign(this.options, options);
    this.series = series;
    this.schedule();
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  domain() {
    const xs = [Infinity, -Infinity];
    const ys = [];
    for (const one of this.series) {
      for (const [x, y] of one.points) {
        if (x < xs[0]) xs[0] = x;
        if (x > xs[1]) xs[1] = x;
        if (Number.isFinite(y) && (!this.options.logY || y > 0)) ys.push(y);
      }
    }
    if (!ys.length || !Number.isFinite(xs[0])) return null;
    ys.sort((a, b) => a - b);
    const at = (share) => ys[Math.min(ys.length - 1, Math.floor(share * ys.length))];
    let [low, high] = [ys[0], ys[ys.length - 1]];
    if (!this.options.logY) {
      // A few diverged values must not press all others to the floor.
      const body = at(0.9) - at(0.1);
      if (body > 0) {
        high = Math.min(high, at(0.9) + 2 * body);
        low = Math.max(low, at(0.1) - 2 * body);
      }
    }
    const beyond = ys.length - ys.filter((y) => y >= low && y <= high).length;
    if (low === high) [low, high] = this.options.logY ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
    else if (!this.options.logY) {
      const margin = (high - low) * 0.04;
      [low, high] = [low - margin, high + margin];
    } else {
      const margin = (high / low) ** 0.04;
      [low, high] = [low / margin, high * margin];
    }
    if (xs[0] === xs[1]) xs[1] = xs[0] + 1;
    return { x: xs, y: [low, high], beyond };
  }

  draw() {
    const width = this.plot.clientWidth;
    const height = this.plot.clientHeight;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = width * ratio;
    if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = height * ratio;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.figure);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    pen.font = `12px ${style.fontFamily}`;
    const domain = this.domain();
    this.figure.dataset.beyond = domain ? domain.beyond : 0;
    if (!domain) {
      pen.fillStyle = color("muted");
      pen.textAlign = "center";
      pen.fillText(this.figure.dataset.empty || "Nothing measured yet.", width / 2, height / 2);
      this.frame = null;
      return;
    }
    const yTicks = ticks(domain.y[0], domain.y[1], Math.max(3, Math.floor(height / 55)),
      this.options.logY);
    const labels = yTicks.map((y) => number(y, 3));
    const left = Math.ceil(Math.max(...labels.map((label) => pen.measureText(label).width))) + 12;
    const box = { left, right: width - 10, top: 20, bottom: height - 36 };
    const logged = this.options.logY ? Math.log10 : (y) => y;
    const [bottom, top] = domain.y.map(logged);
    const px = (x) => box.left + ((x - domain.x[0]) / (domain.x[1] - domain.x[0])) * (box.right - box.left);
    const py = (y) => box.bottom - ((logged(y) - bottom) / (top - bottom)) * (box.bottom - box.top);
    this.frame = { px, py, box };

    pen.lineWidth = 1;
    pen.strokeStyle = color("chart-grid");
    pen.fillStyle = color("muted");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    yTicks.forEach((y, index) => {
      line(pen, [[box.left, py(y)], [box.right, py(y)]]);
      pen.fillText(labels[index], box.left - 7, py(y));
    });
    pen.textBaseline = "top";
    pen.textAlign = "center";
    let xTicks = ticks(domain.x[0], domain.x[1], Math.max(2, Math.floor(width / 90)), false);
    if (this.options.integerX) xTicks = xTicks.filter(Number.isInteger);
    for (const x of xTicks) pen.fillText(number(x), px(x), box.bottom + 6);
    pen.textAlign = "right";
    pen.fillText(this.options.xLabel, box.right, box.bottom + 21);
    pen.textAlign = "left";
    pen.fillText(this.options.yLabel + (this.options.logY ? " (log)" : ""), 0, 0);

    pen.save();
    pen.beginPath();
    pen.rect(box.left - 4, box.top - 4, box.right - box.left + 8, box.bottom - box.top + 8);
    pen.clip();
    const order = [...this.series].sort((a, b) => Number(!a.dim) - Number(!b.dim));
    for (const one of order) {
      if (this.focus?.series !== one) this.stroke(pen, one, color, Boolean(this.focus));
    }
    if (this.focus) this.stroke(pen, this.focus.series, color, false, true);
    pen.restore();
  }

  stroke(pen, one, color, faded, strong = false) {
    const { px, py } = this.frame;
    const tone = one.dim && !strong ? color("chart-dim") : color(`chart-${(one.tone ?? 0) % 8}`);
    pen.strokeStyle = pen.fillStyle = tone;
    pen.globalAlpha = faded ? 0.35 : one.dim && !strong ? 0.8 : 1;
    pen.lineWidth = strong ? 3 : one.width ?? 1.5;
    pen.lineJoin = "round";
    const spots = one.points.filter(([, y]) => Number.isFinite(y) && (!this.options.logY || y > 0));
    if (one.kind === "points") {
      for (const [x, y] of spots) dot(pen, px(x), py(y), one.dim ? 2 : 3);
    } else if (one.kind === "step") {
      const path = [];
      spots.forEach(([x, y], index) => {
        if (index) path.push([px(x), py(spots[index - 1][1])]);
        path.push([px(x), py(y)]);
      });
      line(pen, path);
    } else {
      line(pen, spots.map(([x, y]) => [px(x), py(y)]));
      if (spots.length === 1) dot(pen, px(spots[0][0]), py(spots[0][1]), 2.5);
    }
    pen.globalAlpha = 1;
    if (strong && this.focus.point) {
      dot(pen, px(this.focus.point[0]), py(this.focus.point[1]), 4.5);
    }
  }

  hover(event) {
    if (!this.frame) return;
    const { px, py } = this.frame;
    const bounds = this.canvas.getBoundingClientRect();
    const [mx, my] = [event.clientX - bounds.left, event.clientY - bounds.top];
    let best = null;
    let nearest = REACH * REACH;
    for (const series of this.series) {
      if (series.kind === "step") continue;
      for (const point of series.points) {
        if (!Number.isFinite(point[1]) || (this.options.logY && point[1] <= 0)) continue;
        const distance = (px(point[0]) - mx) ** 2 + (py(point[1]) - my) ** 2;
        if (distance < nearest) [nearest, best] = [distance, { series, point }];
      }
    }
    this.focus = best;
    this.canvas.classList.toggle("pointing", Boolean(best?.series.href));
    if (best) {
      const [x, y] = best.point;
      const lines = [best.point[2] ?? best.series.label,
        `${this.options.yLabel} ${number(y)} at ${this.options.xLabel} ${number(x)}`];
      if (best.series.details) lines.push(best.series.details);
      this.tip.textContent = lines.join("\n");
      this.tip.hidden = false;
      const left = Math.min(mx + 14, bounds.width - this.tip.offsetWidth - 4);
      const above = my - this.tip.offsetHeight - 12;
      this.tip.style.transform = `translate(${Math.max(0, left)}px, ${above > 0 ? above : my + 16}px)`;
    } else this.tip.hidden = true;
    this.schedule();
  }

  leave() {
    this.focus = null;
    this.tip.hidden = true;
    this.schedule();
  }
}

export function line(pen, path) {
  pen.beginPath();
  path.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

export function dot(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}
