// Numbers as a person writes them: three or four significant digits, units, no noise.

const SMALL = 1e-3;
const LARGE = 1e5;

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size < SMALL || size >= LARGE
    ? value.toExponential(Math.max(0, digits - 2)).replace(/\.?0+e/, "e").replace("e+", "e")
    : String(Number(value.toPrecision(digits)));
  return text.replace(/-/g, "−");
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// Round places for an axis: steps of 1, 2 or 5 times a power of ten; decades where it is log.
export function ticks(low, high, count, log) {
  if (log) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    const decades = last - first + 1;
    if (decades >= 3) {
      const every = Math.ceil(decades / count);
      return range(first, last, every).map((power) => 10 ** power);
    }
    const fine = [];
    for (let power = first - 1; power <= last; power += 1) {
      for (const digit of [1, 2, 5]) {
        const place = digit * 10 ** power;
        if (place >= low * (1 - 1e-9) && place <= high * (1 + 1e-9)) fine.push(place);
      }
    }
    return fine.length > 1 ? fine : ticks(low, high, count, false);
  }
  const span = high - low;
  if (!(span > 0)) return [low];
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return range(first, last, 1).map((index) => index * step);
}

function range(first, last, every) {
  const out = [];
  for (let value = first; value <= last; value += every) out.push(value);
  return out;
}
