// The courses of the schedules that a row names, each a small picture.

const SVG = "http://www.w3.org/2000/svg";

function picture({ name, points, summary }) {
  const figure = document.createElement("figure");
  figure.className = "course";
  const caption = document.createElement("figcaption");
  caption.textContent = name;
  if (points.length) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 40");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", summary);
    const top = Math.max(1, ...points.map(([, multiplier]) => multiplier));
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("points", points.map(([share, multiplier]) =>
      `${(100 * share).toFixed(1)},${(39 - (38 * multiplier) / top).toFixed(1)}`).join(" "));
    svg.append(line);
    figure.append(svg);
  } else figure.append(summary);
  figure.title = summary;
  figure.append(caption);
  return figure;
}

// Keeps `place` showing the schedules that `names()` gives.
export function courses(place, catalogue, names) {
  place.className = "courses";
  return () => {
    const wanted = names().map((name) => catalogue.find((one) => one.name === name)).filter(Boolean);
    const key = wanted.map((one) => one.name).join();
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    place.replaceChildren(...wanted.map(picture));
  };
}
