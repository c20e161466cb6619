// Numbers, times and sizes as a person writes them: three significant digits, units, no noise.

const SMALL = 1e-3;
const LARGE = 1e5;

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  let text;
  if (Number.isInteger(value) && size < 1e9) text = String(value);
  else if (size > 0.99 && size < 1) {
    // A decay rate, of which the distance to 1 is what counts.
    text = String(Number(value.toFixed(digits - 2 - Math.floor(Math.log10(1 - size)))));
  }
  else if (size !== 0 && (size < SMALL || size >= Math.max(LARGE, 10 ** digits))) {
    text = value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  } else if (size >= 10 ** digits) text = value.toFixed(0);
  else text = String(Number(value.toPrecision(digits)));
  return text.replace(/-/g, "−");
}

// So many of what a word in the singular names.
export const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const DAY = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };

// A moment, in seconds since 1970, by the local clock; with its day where that is in doubt.
export function clock(seconds, day = false) {
  return new Date(1000 * seconds).toLocaleString(undefined, day ? DAY : CLOCK);
}

export function percent(share) {
  return share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`;
}
