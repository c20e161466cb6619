// Two canvases in a figure: the picture, and above it what is pointed at, so that pointing redraws
// little. Colours come from the stylesheet, so light, dark and print are one design. The figure's
// caption says in words what the picture shows.

const dark = matchMedia("(prefers-color-scheme: dark)");
const print = matchMedia("print");
const STOPS = 8; // --ramp-0 to --ramp-8
let serial = 0;

function canvas() {
  return document.createElement("canvas");
}

export class Surface extends EventTarget {
  // `figure` holds `.plot`, into which the canvases go, and perhaps a `figcaption`.
  constructor(figure) {
    super();
    this.figure = figure;
    this.plot = figure.querySelector(".plot");
    this.caption = figure.querySelector("figcaption");
    this.base = canvas();
    this.base.setAttribute("aria-hidden", "true");
    this.top = canvas();
    this.top.tabIndex = 0;
    this.top.className = "top-layer";
    // More than a picture: arrow keys walk over what it shows, and the tip says it.
    this.top.setAttribute("role", "application");
    this.top.setAttribute("aria-roledescription", "chart");
    this.top.setAttribute("aria-label", figure.dataset.label || "Chart");
    if (this.caption) {
      this.caption.id ||= `caption-${serial += 1}`;
      this.top.setAttribute("aria-describedby", this.caption.id);
    }
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.setAttribute("role", "status");
    this.tip.hidden = true;
    this.plot.replaceChildren(this.base, this.top, this.tip);
    this.due = { base: false, top: false };
    this.scheduled = false;
    new ResizeObserver(() => this.redraw()).observe(this.plot);
    dark.addEventListener("change", () => this.redraw());
    print.addEventListener("change", () => this.draw()); // the page is copied before the next frame
  }

  redraw() {
    this.due.base = true;
    this.retouch();
  }

  retouch() {
    this.due.top = true;
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      if (this.due.base) this.draw();
      else this.layer(this.top, (pen) => this.over(pen));
      this.due = { base: false, top: false };
    });
  }

  draw() {
    this.width = this.plot.clientWidth;
    this.height = this.plot.clientHeight;
    if (!this.width || !this.height) return;
    this.style = getComputedStyle(this.figure);
    this.colors = new Map();
    this.layer(this.base, (pen) => this.paint(pen));
    this.layer(this.top, (pen) => this.over(pen));
  }

  layer(target, work) {
    if (!this.style) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (target.width !== width) target.width = width;
    if (target.height !== height) target.height = height;
    const pen = target.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    pen.font = `12px ${this.style.fontFamily}`;
    pen.globalAlpha = 1;
    work(pen);
  }

  // What a subclass draws: the picture, and what is pointed at.
  paint() {}

  over() {}

  color(name) {
    if (!this.colors.has(name)) this.colors.set(name, this.style.getPropertyValue(`--${name}`).trim());
    return this.colors.get(name);
  }

  tone(index) {
    return this.color(`chart-${index % 8}`);
  }

  // The colour of a share from 0 (worst) to 1 (best), the same for every chart and legend.
  ramp(share) {
    const place = Math.min(1, Math.max(0, share)) * STOPS;
    const step = Math.min(STOPS - 1, Math.floor(place));
    const [a, b] = [step, step + 1].map((stop) => this.channels(`ramp-${stop}`));
    const mixed = a.map((value, index) => Math.round(value + (place - step) * (b[index] - value)));
    return `rgb(${mixed.join(" ")})`;
  }

  channels(name) {
    const key = `channels ${name}`;
    if (!this.colors.has(key)) {
      const digits = this.color(name).slice(1);
      this.colors.set(key, [0, 2, 4].map((at) => parseInt(digits.slice(at, at + 2), 16)));
    }
    return this.colors.get(key);
  }

  // Where the pointer is, in pixels of the plot.
  spot(event) {
    const bounds = this.top.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  showTip(lines, x, y) {
    this.tip.textContent = lines.join("\n");
    this.tip.hidden = false;
    const left = Math.min(x + 14, this.width - this.tip.offsetWidth - 4);
    const above = y - this.tip.offsetHeight - 12;
    this.tip.style.transform = `translate(${Math.max(0, left)}px, ${above > 0 ? above : y + 16}px)`;
  }

  hideTip() {
    this.tip.hidden = true;
  }

  say(text) {
    const told = this.figure.dataset.trouble || text;
    if (this.caption && this.caption.textContent !== told) this.caption.textContent = told;
  }
}

// Why a figure's numbers could not be read. Its caption says so, whatever is drawn meanwhile, until
// some are: then the trouble is "", and the caption takes what is said next.
export function trouble(figure, text) {
  figure.dataset.trouble = text;
  if (text) figure.querySelector("figcaption").textContent = text;
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

// The text, cut so that it fits `width` pixels.
export function fitted(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && pen.measureText(`${text.slice(0, end)}…`).width > width) end -= 1;
  return `${text.slice(0, end)}…`;
}
