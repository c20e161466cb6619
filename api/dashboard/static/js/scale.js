// Axes: from values to pixels and back, and the round places in between.
//
// An axis is {label, kind, integer, choices}, its kind one of "linear" (the default), "log", "time"
// (seconds since 1970) and "category" (one of `choices`, each at the centre of a cell and labelled by
// `name(choice)`).

import { clock, number } from "./numbers.js";

const CLOCK_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600,
  43_200, 86_400];

// The axis laid over [from, to] in pixels, from `low` to `high` where it has numbers.
export function scaled(axis, [low, high], [from, to]) {
  const span = to - from;
  if (axis.kind === "category") {
    const count = axis.choices.length;
    const place = new Map(axis.choices.map((choice, index) => [choice, index]));
    const text = axis.name ?? String;
    return { ...axis, from, to, cell: span / count, text,
      at: (value) => (place.has(value) ? from + ((place.get(value) + 0.5) / count) * span : NaN),
      back: (pixel) => axis.choices[Math.min(count - 1, Math.max(0,
        Math.floor(((pixel - from) / span) * count)))],
      ticks: (most) => {
        const every = Math.ceil(count / Math.max(1, most));
        return axis.choices.filter((_, index) => index % every === 0)
          .map((choice) => [choice, text(choice)]);
      } };
  }
  const put = axis.kind === "log" ? Math.log10 : (value) => value;
  const [first, last] = [put(low), put(high)];
  const days = axis.kind === "time" && high - low > 86_400;
  // Of a value as many digits as tell a thousandth of the axis.
  const fine = axis.kind === "log" ? 4 : apart([low, high], 3);
  const text = axis.kind === "time" ? (value) => clock(value, days) : (value) => number(value, fine);
  return { ...axis, from, to, low, high, text,
    at: (value) => from + ((put(value) - first) / (last - first)) * span,
    back: (pixel) => {
      const value = first + ((pixel - from) / span) * (last - first);
      return axis.kind === "log" ? 10 ** value : value;
    },
    ticks: (most) => {
      const found = places(axis, low, high, most);
      const written = axis.kind === "time" ? text : (value) => number(value, apart(found));
      return found.map((value) => [value, written(value)]);
    } };
}

// How many digits tell each of these numbers, in order, from its neighbours; and `more` beyond that.
export function apart(found, more = 0) {
  const steps = found.slice(1).map((value, index) => value - found[index]);
  const most = Math.max(...found.map(Math.abs));
  if (!steps.length || !most) return 3 + Math.sign(more);
  const power = (value) => Math.floor(Math.log10(value) + 1e-9);
  return Math.min(12, Math.max(3, power(most) - power(Math.min(...steps)) + 1 + more));
}

function places(axis, low, high, most) {
  if (axis.kind === "time") return clockTicks(low, high, most);
  const found = ticks(low, high, most, axis.kind === "log");
  return axis.integer ? found.filter(Number.isInteger) : found;
}

// Round places: steps of 1, 2 or 5 times a power of ten; decades where the axis is logarithmic.
export function ticks(low, high, most, log = false) {
  if (log) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    if (last - first >= 2) {
      return range(first, last, Math.ceil((last - first + 1) / most)).map((power) => 10 ** power);
    }
    const fine = [];
    for (let power = first - 1; power <= last; power += 1) {
      for (const digit of [1, 2, 5]) {
        const place = digit * 10 ** power;
        if (place >= low * (1 - 1e-9) && place <= high * (1 + 1e-9)) fine.push(place);
      }
    }
    return fine.length > 1 ? fine : ticks(low, high, most);
  }
  const span = high - low;
  if (!(span > 0)) return [low];
  const raw = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  const ends = (step) => [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  const gaps = (step) => ends(step)[1] - ends(step)[0];
  const steps = [0.2, 0.5, 1, 2, 5, 10].map((factor) => factor * power);
  // The finest that leaves room for the labels; but one place alone tells no scale.
  const step = Math.min(steps.find((one) => gaps(one) <= most),
    steps.findLast((one) => gaps(one) >= 1));
  return range(...ends(step), 1).map((index) => Number((index * step).toPrecision(15)));
}

function clockTicks(low, high, most) {
  const step = CLOCK_STEPS.find((one) => (high - low) / one <= most)
    ?? 86_400 * Math.ceil((high - low) / 86_400 / most);
  // Whole hours of the local clock, whatever its zone is.
  const shift = 60 * new Date(1000 * low).getTimezoneOffset();
  return range(Math.ceil((low - shift) / step), Math.floor((high - shift) / step), 1)
    .map((index) => index * step + shift);
}

function range(first, last, every) {
  const out = [];
  for (let value = first; value <= last; value += every) out.push(value);
  return out;
}

// The least and the greatest of the values, some room around them where all are equal.
export function spread(values, log) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!Number.isFinite(value) || (log && value <= 0)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  if (low === high) return log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  return [low, high];
}

// The same without a few values far off, which would press all others against an edge.
export function robust(values, log) {
  const usable = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  const whole = spread(usable, log);
  if (!whole) return null;
  let [low, high] = whole;
  if (log) {
    const margin = (high / low) ** 0.04;
    return { low: low / margin, high: high * margin, beyond: 0 };
  }
  usable.sort((a, b) => a - b);
  const at = (share) => usable[Math.min(usable.length - 1, Math.floor(share * usable.length))];
  const body = at(0.9) - at(0.1);
  if (body > 0) {
    high = Math.min(high, at(0.9) + 2 * body);
    low = Math.max(low, at(0.1) - 2 * body);
  }
  const beyond = usable.reduce((count, value) => count + (value < low || value > high), 0);
  const margin = (high - low) * 0.04;
  return { low: low - margin, high: high + margin, beyond };
}
