// Learning rate against batch size on two logarithms: trials coloured by loss, the fit with its band,
// where the rules go, the point that works now and the one that is advised. As SVG, so that it prints
// and its parts can be reached; the numbers themselves are in the tables of the page.

import { number } from "./numbers.js";
import { ticks } from "./scale.js";

const NS = "http://www.w3.org/2000/svg";
const RULES = { keep: "keep", sqrt: "sqrt", linear: "linear", gain: "noise scale" };

export class ScalingPicture {
  // `onBatch` is called with a batch size when the dashed line is moved.
  constructor(figure, onBatch) {
    this.figure = figure;
    this.onBatch = onBatch;
    this.data = null;
    this.plot = figure.querySelector(".plot");
    this.svg = element("svg", { role: "group", "aria-label": "Learning rate against batch size" });
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.plot.replaceChildren(this.svg, this.tip);
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => { this.tip.hidden = true; });
  }

  set(data) {
    this.data = data;
    this.draw();
  }

  // What must fit: everything that is drawn but the rules, which may leave the picture.
  domain() {
    const { points, optima, curve, old, new: fresh } = this.data;
    const xs = [...points, ...optima].map(([x]) => x);
    const ys = [...points.map(([, y]) => y), ...optima.map(([, y]) => y)];
    if (old) {
      xs.push(old[0], fresh[0]);
      ys.push(old[1], ...fresh.slice(1));
    }
    if (!xs.length) return null;
    const x = [Math.min(...xs), Math.max(...xs)];
    for (const [at, y] of curve) if (at >= x[0] && at <= x[1]) ys.push(y);
    const wide = (pair, least) => {
      const octaves = Math.log2(pair[1] / pair[0]);
      const extra = Math.max(0.06 * octaves, (least - octaves) / 2);
      return [pair[0] / 2 ** extra, pair[1] * 2 ** extra];
    };
    return { x: wide(x, 2), y: wide([Math.min(...ys), Math.max(...ys)], 3) };
  }

  draw() {
    const width = this.plot.clientWidth;
    const height = this.plot.clientHeight;
    const domain = this.data && this.domain();
    const held = this.svg.contains(document.activeElement);
    this.svg.replaceChildren();
    if (!width || !height || !domain) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const box = { left: 58, right: width - 74, top: 24, bottom: height - 40 };
    const scale = ([low, high], from, to) => (value) => (
      from + ((Math.log2(value) - Math.log2(low)) / Math.log2(high / low)) * (to - from));
    const px = scale(domain.x, box.left, box.right);
    const py = scale(domain.y, box.bottom, box.top);
    this.frame = { px, py, box, domain };
    this.axes(px, py, box, domain, width);
    const clip = element("clipPath", { id: "scaling-clip" }, element("rect", {
      x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top,
    }));
    const inside = element("g", { "clip-path": "url(#scaling-clip)", "aria-hidden": "true" });
    this.svg.append(element("defs", {}, clip), inside);
    this.rules(inside, px, py, box, domain);
    this.curves(inside, px, py);
    this.trials(inside, px, py);
    if (this.data.old) {
      this.advice(inside, px, py, box);
      this.handle(px, box);
    }
    if (held) this.svg.querySelector(".handle")?.focus();
  }

  axes(px, py, box, domain, width) {
    const grid = element("g", { "aria-hidden": "true" });
    for (const y of ticks(...domain.y, 6, true)) {
      grid.append(
        element("line", { class: "grid-line", x1: box.left, x2: box.right, y1: py(y), y2: py(y) }),
        label(box.left - 7, py(y) + 4, number(y, 2), "end"),
      );
    }
    const first = Math.ceil(Math.log2(domain.x[0]) - 1e-9);
    const last = Math.floor(Math.log2(domain.x[1]) + 1e-9);
    const every = Math.ceil((last - first + 1) / Math.max(2, Math.floor(width / 60)));
    for (let power = first; power <= last; power += every) {
      const x = px(2 ** power);
      grid.append(
        element("line", { class: "grid-line", x1: x, x2: x, y1: box.top, y2: box.bottom }),
        label(x, box.bottom + 16, number(2 ** power), "middle"),
      );
    }
    grid.append(
      label(box.right, box.bottom + 34, "batch size (log)", "end"),
      label(2, 12, "learning rate (log)", "start"),
    );
    this.svg.append(grid);
  }

  // Each rule's line from edge to edge, and its name beside the right one.
  rules(inside, px, py, box, domain) {
    const names = [];
    for (const [rule, path] of Object.entries(this.data.lines)) {
      const whole = [onwards(path[1], path[0], domain.x[0]), ...path,
        onwards(path.at(-2), path.at(-1), domain.x[1])];
      inside.append(element("path", { class: `rule ${rule}`, d: line(whole, px, py) }));
      names.push({ rule, y: Math.min(Math.max(py(whole.at(-1)[1]), box.top), box.bottom) });
    }
    names.sort((a, b) => a.y - b.y);
    names.forEach((one, index) => {
      if (index) one.y = Math.max(one.y, names[index - 1].y + 14);
      const text = label(box.right + 6, one.y + 4, RULES[one.rule] ?? one.rule, "start");
      text.setAttribute("aria-hidden", "true");
      this.svg.append(text);
    });
  }

  curves(inside, px, py) {
    const { curve } = this.data;
    if (curve.length) {
      const band = [...curve.map(([x, , low]) => [x, low]),
        ...[...curve].reverse().map(([x, , , high]) => [x, high])];
      inside.append(
        element("path", { class: "band", d: `${line(band, px, py)}Z` }),
        element("path", { class: "curve", d: line(curve, px, py) }),
      );
    }
  }

  trials(inside, px, py) {
    this.spots = [];
    for (const [batch, lr, shade, trial, name, study, value] of this.data.points) {
      // Trials of one batch size share a column: a little apart, the same way each time.
      const x = px(batch) + ((trial * 7919) % 11) - 5;
      const y = py(lr);
      const spot = shade === null
        ? element("path", { class: "cross", d: `M${x - 3} ${y - 3}l6 6m0 -6l-6 6` })
        : element("circle", { class: `dot shade-${shade}`, cx: x, cy: y, r: 4 });
      this.spots.push({ x, y, trial, text: [`trial ${name} of study ${study}`,
        `lr ${number(lr)}, batch size ${batch}`,
        shade === null ? "diverged" : `value ${number(value)}`].join("\n") });
      inside.append(spot);
    }
    for (const [batch, lr, low, high] of this.data.optima) {
      const [x, y] = [px(batch), py(lr)];
      if (low && high) {
        inside.append(element("line", { class: "whisker", x1: x, x2: x, y1: py(low), y2: py(high) }));
      }
      inside.append(element("rect", { class: "optimum", x: x - 4, y: y - 4, width: 8, height: 8 }));
    }
  }

  advice(inside, px, py, box) {
    const [old, fresh] = [this.data.old, this.data.new];
    const [x, y] = [px(fresh[0]), py(fresh[1])];
    const right = x + 12 + 70 < box.right;
    inside.append(
      element("path", { class: "move", d: line([old, fresh], px, py) }),
      element("line", { class: "range", x1: x, x2: x, y1: py(fresh[2]), y2: py(fresh[3]) }),
      element("circle", { class: "old", cx: px(old[0]), cy: py(old[1]), r: 5 }),
      element("circle", { class: "new", cx: x, cy: y, r: 7 }),
    );
    const text = label(right ? x + 12 : x - 12, y + 4, number(fresh[1]), right ? "start" : "end");
    text.setAttribute("class", "new-label");
    inside.append(text);
  }

  handle(px, box) {
    const batch = this.data.new[0];
    const x = px(batch);
    const handle = element("g", {
      class: "handle", role: "slider", tabindex: 0, "aria-label": "New batch size",
      "aria-valuemin": 1, "aria-valuemax": 2 ** 31, "aria-valuenow": batch,
      "aria-orientation": "horizontal",
    }, element("line", { x1: x, x2: x, y1: box.top, y2: box.bottom }),
    element("rect", { x: x - 9, y: box.top, width: 18, height: box.bottom - box.top }));
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 2, ArrowUp: 2, ArrowLeft: 0.5, ArrowDown: 0.5 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.onBatch(Math.min(2 ** 31, Math.max(1, Math.round(batch * step))));
    });
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.focus();
      this.drag(event);
    });
    this.svg.append(handle);
  }

  // The pointer is followed on the whole picture, since what is held is drawn anew meanwhile.
  drag(event) {
    this.svg.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const { box, domain } = this.frame;
      const share = (moved.clientX - this.svg.getBoundingClientRect().left - box.left)
        / (box.right - box.left);
      const octave = Math.log2(domain.x[0]) + share * Math.log2(domain.x[1] / domain.x[0]);
      this.onBatch(Math.max(1, 2 ** Math.round(octave)));
    };
    const done = () => {
      this.svg.removeEventListener("pointermove", move);
      this.svg.removeEventListener("pointerup", done);
      this.svg.removeEventListener("pointercancel", done);
    };
    this.svg.addEventListener("pointermove", move);
    this.svg.addEventListener("pointerup", done);
    this.svg.addEventListener("pointercancel", done);
  }

  hover(event) {
    const bounds = this.svg.getBoundingClientRect();
    const [mx, my] = [event.clientX - bounds.left, event.clientY - bounds.top];
    let best = null;
    let nearest = 14 * 14;
    for (const spot of this.spots ?? []) {
      const distance = (spot.x - mx) ** 2 + (spot.y - my) ** 2;
      if (distance < nearest) [nearest, best] = [distance, spot];
    }
    this.tip.hidden = !best;
    if (!best) return;
    this.tip.textContent = best.text;
    const left = Math.min(mx + 14, bounds.width - this.tip.offsetWidth - 4);
    const above = my - this.tip.offsetHeight - 12;
    this.tip.style.transform = `translate(${Math.max(0, left)}px, ${above > 0 ? above : my + 16}px)`;
  }
}

function element(name, attributes, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function label(x, y, text, anchor) {
  const made = element("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

// The point at `x` on the straight line, on two logarithms, through two others.
function onwards(from, to, x) {
  const slope = Math.log(to[1] / from[1]) / Math.log(to[0] / from[0]);
  return [x, Number.isFinite(slope) ? to[1] * (x / to[0]) ** slope : to[1]];
}

function line(path, px, py) {
  return path.map(([x, y], index) => `${index ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`)
    .join("");
}
