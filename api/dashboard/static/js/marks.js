// What a chart can hold. Each kind of series knows how to be measured (`each`), drawn (`paint`),
// found under a pointer (`near`), stepped along (`count`, `spot`) and told (`tell`).

import { number } from "./numbers.js";
import { dot, line } from "./surface.js";

// Series of `points`, [[x, y], ...] in the order of x: {key, label, tone, dim, width, dash, points}.
const pointwise = {
  each(series, take) {
    for (const [x, y] of series.points) take(x, y);
  },
  count: (series) => series.points.length,
  spot(chart, series, index) {
    const [x, y] = series.points[index];
    return [chart.x.at(x), chart.y.at(y)];
  },
  near(chart, series, mx, my, reach) {
    let best = null;
    let nearest = reach * reach;
    series.points.forEach(([x, y], index) => {
      const distance = (chart.x.at(x) - mx) ** 2 + (chart.y.at(y) - my) ** 2;
      if (distance < nearest) [nearest, best] = [distance, index]; // false where one is NaN
    });
    return best === null ? null : { index: best, distance: nearest };
  },
  tell(chart, series, index) {
    const [x, y] = series.points[index];
    return [`${chart.y.label} ${chart.y.text(y)} at ${chart.x.label} ${chart.x.text(x)}`];
  },
};

function pixels(chart, series) {
  return series.points.map(([x, y]) => [chart.x.at(x), chart.y.at(y)])
    .filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
}

function styled(chart, pen, series, strong) {
  const quiet = series.dim && !strong;
  pen.strokeStyle = pen.fillStyle = quiet ? chart.color("chart-dim") : chart.tone(series.tone ?? 0);
  pen.globalAlpha = quiet ? 0.8 : 1;
  pen.lineWidth = strong ? 3 : series.width ?? 1.5;
  pen.lineJoin = "round";
  pen.setLineDash(series.dash ?? []);
}

function stroked(chart, pen, series, strong, path) {
  styled(chart, pen, series, strong);
  line(pen, path);
  pen.setLineDash([]);
  if (path.length === 1) dot(pen, ...path[0], 2.5);
}

export const marks = {
  line: {
    ...pointwise,
    paint: (chart, pen, series, strong) =>
      stroked(chart, pen, series, strong, pixels(chart, series)),
  },

  step: {
    ...pointwise,
    paint(chart, pen, series, strong) {
      const path = [];
      pixels(chart, series).forEach(([x, y], index) => {
        if (index) path.push([x, path.at(-1)[1]]);
        path.push([x, y]);
      });
      stroked(chart, pen, series, strong, path);
    },
  },

  // `shades`, one a point from 0 to 1, colour them by the ramp; `size` is their radius.
  points: {
    ...pointwise,
    paint(chart, pen, series) {
      styled(chart, pen, series, false);
      const size = series.size ?? (series.dim ? 2 : 3);
      pen.lineWidth = 1;
      const edge = chart.color("surface");
      series.points.forEach(([x, y], index) => {
        const [px, py] = [chart.x.at(x), chart.y.at(y)];
        if (!Number.isFinite(px) || !Number.isFinite(py)) return;
        if (series.shades) pen.fillStyle = chart.ramp(series.shades[index]);
        dot(pen, px, py, size);
        if (series.shades) {
          pen.strokeStyle = edge;
          pen.stroke();
        }
      });
    },
  },

  // An interval at each place: `points` is [[x, low, high], ...], an end that is null open.
  band: {
    each(series, take) {
      for (const [x, ...ends] of series.points) for (const end of ends) if (end !== null) take(x, end);
    },
    count: () => 0,
    near: () => null,
    paint(chart, pen, series) {
      const edge = (at, open) => series.points.map((point) => {
        const y = point[at] === null ? open : chart.y.at(point[at]);
        return [chart.x.at(point[0]), Number.isFinite(y) ? y : open];
      });
      pen.fillStyle = chart.tone(series.tone ?? 0);
      pen.globalAlpha = 0.18;
      pen.beginPath();
      const { top, bottom } = chart.box;
      for (const [x, y] of [...edge(1, bottom), ...edge(2, top).reverse()]) pen.lineTo(x, y);
      pen.fill();
    },
  },

  // Stretches of time, one above the other: `spans` is [{from, to, row, tone, dim}, ...], `row` a
  // choice of the category axis y.
  spans: {
    each(series, take) {
      for (const { from, to, row } of series.spans) {
        take(from, row);
        take(to, row);
      }
    },
    count: (series) => series.spans.length,
    spot(chart, series, index) {
      const { from, to, row } = series.spans[index];
      return [(chart.x.at(from) + chart.x.at(to)) / 2, chart.y.at(row)];
    },
    near(chart, series, mx, my) {
      const half = Math.abs(chart.y.cell) / 2;
      let best = null;
      let nearest = 6;
      series.spans.forEach(({ from, to, row }, index) => {
        if (Math.abs(chart.y.at(row) - my) > half) return;
        const distance = Math.max(chart.x.at(from) - mx, mx - chart.x.at(to), 0);
        if (distance < nearest) [nearest, best] = [distance, index];
      });
      return best === null ? null : { index: best, distance: nearest * nearest };
    },
    tell: () => [],
    paint(chart, pen, series) {
      const height = Math.max(1.5, Math.min(18, Math.abs(chart.y.cell) * 0.8));
      const gap = chart.color("surface");
      for (const span of series.spans) {
        const [x, y] = [chart.x.at(span.from), chart.y.at(span.row) - height / 2];
        const width = Math.max(1.5, chart.x.at(span.to) - x);
        pen.fillStyle = span.dim ? chart.color("chart-dim") : chart.tone(span.tone ?? 0);
        pen.fillRect(x, y, width, height);
        if (width > 3 && height > 3) {
          pen.fillStyle = gap; // so that neighbours are told apart without colour
          pen.fillRect(x + width - 1, y, 1, height);
        }
      }
    },
  },

  // A field of colours: `columns` and `rows` are choices or [low, high], `shades[row][column]` lies
  // in [0, 1] or is null where nothing is known.
  cells: {
    each(series, take) {
      for (const column of series.columns) {
        for (const row of series.rows) {
          for (const end of [0, 1]) take(side(column, end), side(row, end));
        }
      }
    },
    count: () => 0,
    near: () => null,
    paint(chart, pen, series) {
      const across = series.columns.map((column) => extent(chart.x, column));
      const down = series.rows.map((row) => extent(chart.y, row));
      series.shades.forEach((shades, row) => {
        const [top, bottom] = down[row];
        shades.forEach((shade, column) => {
          if (shade === null) return;
          const [left, right] = across[column];
          pen.fillStyle = chart.ramp(Math.round(10 * shade) / 10); // bands read as contours
          pen.fillRect(left, top, right - left, bottom - top);
        });
      });
    },
  },
};

const side = (cell, end) => (Array.isArray(cell) ? cell[end] : cell);

function extent(scale, cell) {
  const half = Math.abs(scale.cell) / 2;
  const ends = Array.isArray(cell) ? cell.map((value) => scale.at(value))
    : [scale.at(cell) - half, scale.at(cell) + half];
  return ends.sort((a, b) => a - b).map(Math.round); // whole pixels, so that no seam shows
}
