// The heat map and the projection.

const HEAT = {
  light: [
    [243, 245, 248],
    [13, 100, 120],
  ],
  dark: [
    [34, 42, 52],
    [98, 208, 228],
  ],
};

const LABEL_WIDE = 112; // pixels, as page.css has them
const CELL_WIDE = 41;
const MANY = 24; // above this number of texts, labels are only their numbers

// The text on one line, shortened to n characters.
const short = (text, n) => {
  const letters = [...text.replace(/\s+/g, " ")];
  return letters.length > n ? letters.slice(0, n).join("") + "…" : letters.join("");
};

const isDark = () =>
  getComputedStyle(document.documentElement).colorScheme === "dark" ||
  (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);

function showHeat() {
  const { vectors, body } = state.shown;
  const cosines = vectors.map((one) => vectors.map((other) => dot(one, other)));
  state.shown.cosines = cosines;
  const low = Math.min(0.99, ...cosines.flatMap((row, index) => row.filter((_, other) => other !== index)));
  const [cold, warm] = HEAT[isDark() ? "dark" : "light"];
  const head = make(
    "tr",
    {},
    make("td"),
    ...vectors.map((_, index) => make("th", { scope: "col", title: body.input[index] }, String(index + 1))),
  );
  const rows = cosines.map((row, index) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", title: body.input[index] }, make("span", {}, `${index + 1} ${short(body.input[index], 80)}`)),
      ...row.map((cosine, other) => {
        const cell = make("td", { "data-row": index, "data-column": other, tabindex: "-1" }, twoDigits(cosine));
        const color = mix(cold, warm, Math.min(1, Math.max(0, (cosine - low) / (1 - low))));
        cell.style.background = `rgb(${color})`;
        cell.style.color = inkOn(color);
        return cell;
      }),
    ),
  );
  at("heat").replaceChildren(at("heat").caption, make("thead", {}, head), make("tbody", {}, ...rows));
  cellAt(0, 0).tabIndex = 0;
  at("low").textContent = twoDigits(low);
  at("high").textContent = "1.00";
  at("ramp").style.background = `linear-gradient(to right, rgb(${cold}), rgb(${warm}))`;
  fitHeat();
}

// Hides the numbers in cells that are too narrow; pointing at a cell shows its number.
function fitHeat() {
  const n = state.shown.vectors.length;
  at("heat").classList.toggle("dense", (at("heat-frame").clientWidth - LABEL_WIDE) / n < CELL_WIDE);
  at("heat").classList.toggle("many", n > MANY);
  showEdges();
}

// Fades the edges where there is more to scroll to.
function showEdges() {
  const { scrollLeft, scrollTop, clientWidth, clientHeight, scrollWidth, scrollHeight, classList } = at("heat-frame");
  classList.toggle("more-right", scrollLeft + clientWidth < scrollWidth - 1);
  classList.toggle("more-below", scrollTop + clientHeight < scrollHeight - 1);
}

const cellAt = (row, column) => at("heat").querySelector(`[data-row="${row}"][data-column="${column}"]`);

// Arrow keys move from cell to cell, Home and End to the ends of a row (ARIA's "grid" pattern: a single tab stop).
function moveInHeat(event) {
  const { row, column } = event.target.dataset;
  const last = state.shown.vectors.length - 1;
  const steps = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
    Home: [0, -last],
    End: [0, last],
  };
  if (row === undefined || !(event.key in steps)) return;
  event.preventDefault();
  const [down, right] = steps[event.key];
  const clamp = (index) => Math.min(last, Math.max(0, index));
  event.target.tabIndex = -1;
  const next = cellAt(clamp(Number(row) + down), clamp(Number(column) + right));
  next.tabIndex = 0;
  next.focus();
}

function readOut(event) {
  const { row, column } = event.target.dataset ?? {};
  if (row === undefined) return;
  const { cosines, body } = state.shown;
  at("readout").textContent =
    `${cosines[row][column].toFixed(4)}: “${short(body.input[row], 120)}” and “${short(body.input[column], 120)}”`;
}

function showMap() {
  const { vectors, body } = state.shown;
  if (vectors.length < 3) {
    at("map").replaceChildren();
    at("map-note").textContent = "With at least three texts, this chart shows which ones are similar.";
    return;
  }
  const projection = project(vectors);
  if (projection === null) {
    at("map").replaceChildren();
    at("map-note").textContent = "All texts have the same vector.";
    return;
  }
  const { points, shares } = projection;
  const width = Math.max(260, at("map").clientWidth);
  const height = Math.round(Math.min(420, Math.max(280, width * 0.7)));
  const spots = fit(points, width, height);
  const many = points.length > MANY;
  const texts = body.input.map((text, index) => [
    ...(many ? [] : [`${index + 1} ${short(text, width < 420 ? 16 : 26)}`, `${index + 1} ${short(text, 10)}`]),
    String(index + 1),
  ]);
  const labels = placeLabels(spots, texts, width, height);
  const svg = make("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `The ${points.length} texts as points in a plane; texts with similar meanings are close together`,
  });
  svg.append(
    make("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2 }),
    make("line", { x1: width / 2, x2: width / 2, y1: 0, y2: height }),
  );
  spots.forEach(([x, y], index) =>
    svg.append(make("circle", { cx: x, cy: y, r: many ? 3.5 : 4.5 }, make("title", {}, body.input[index]))),
  );
  labels
    .filter(Boolean)
    .forEach(({ x, y, anchor, text }) => svg.append(make("text", { x, y, "text-anchor": anchor }, text)));
  at("map").replaceChildren(svg);
  const [first, second] = shares.map((share) => Math.round(share * 100));
  const rest = 100 - first - second;
  const hidden = rest > 0 ? `; the remaining ${rest}% is not shown.` : ".";
  at("map-note").textContent =
    `Principal components: the horizontal axis shows ${first}% of the variance, the vertical axis ${second}%${hidden}`;
}

// Uses the same scale for both axes, to preserve distances.
function fit(points, width, height) {
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min((width - 90) / (right - left || 1), (height - 60) / (top - bottom || 1));
  return points.map(([x, y]) => [
    width / 2 + (x - (left + right) / 2) * scale,
    height / 2 - (y - (bottom + top) / 2) * scale,
  ]);
}
