// The charts of the tab "Server": lines over time, all with the same time axis.

const whole = (value) => Math.round(value).toLocaleString("en");
const oneDigit = (value) => (value < 10 ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : whole(value));
const duration = (value) => (value < 1000 ? ms(value) : `${oneDigit(value / 1000)} s`);
const percent = (value) => `${Math.round(100 * value)}%`;

// `lines`: the names of points' values, and what they are called if there are several. `most`: a fixed end of the axis.
const CHARTS = [
  { title: "Requests per second", lines: { requests: "all", errors: "refused or failed" }, write: oneDigit },
  { title: "Tokens per second", lines: { tokens: "" }, write: whole },
  { title: "Time of a request", lines: { mean: "mean", p95: "95% in" }, write: duration },
  { title: "Texts", lines: { queued: "in the queue", running: "running" }, write: whole },
  { title: "Batch fill", lines: { fill: "" }, write: percent, most: 1 },
  { title: "Processors busy", lines: { cpu: "" }, write: oneDigit },
  { title: "Memory of the server", lines: { memory: "" }, write: megabytes },
  { title: "Found in the cache", lines: { cache: "" }, write: percent, most: 1 },
];
const HEIGHT = 96;
const MIN_SHOWN_MS = 60_000;
const TOP = 14; // above the highest value, for the number at the end of the axis

let pointedMs = null; // the time that the pointer is at; null: now

function makeCharts() {
  at("charts").replaceChildren(
    ...CHARTS.map((chart) => {
      const svg = make("svg", { role: "img" });
      const values = make("span", { class: "values" });
      chart.svg = svg;
      chart.values = values;
      chart.figure = make("figure", {}, make("figcaption", {}, make("span", {}, chart.title), values), svg);
      svg.addEventListener("pointermove", (event) => pointAt(event, svg));
      svg.addEventListener("pointerleave", () => pointAt(null, svg));
      return chart.figure;
    }),
  );
}

// Arrow keys go from point to point, Home and End to the ends, Escape back to now. What is read there is said.
function moveInCharts(event) {
  const times = seen.points.filter(({ atMs }) => atMs >= shownTime().from).map(({ atMs }) => atMs);
  const last = times.length - 1;
  const now = pointedMs === null ? last : times.indexOf(nearest(seen.points, pointedMs).atMs);
  const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last, Escape: null }[event.key];
  if (next === undefined || last < 0) return;
  event.preventDefault();
  pointedMs = next === null ? null : times[Math.min(last, Math.max(0, next))];
  drawCharts();
  const shown = CHARTS.filter(({ figure }) => !figure.hidden);
  const said = shown.map(({ title, values }) => `${title}: ${spoken(values)}`);
  setText("charts-said", pointedMs === null ? "Now" : [clock(pointedMs), ...said].join(". "));
}

const spoken = (values) => [...values.querySelectorAll("span")].map((part) => part.textContent).join(", ");

function pointAt(event, svg) {
  const box = svg.getBoundingClientRect();
  const { from, to } = shownTime();
  pointedMs = event === null ? null : from + ((event.clientX - box.left) / box.width) * (to - from);
  drawCharts();
}

// The chosen time, but at first only since the page was opened, so that the lines are not squeezed.
function shownTime() {
  const to = seen.points.at(-1)?.atMs ?? Date.now();
  const first = Math.min(seen.points[0]?.atMs ?? to, to - MIN_SHOWN_MS);
  return { from: Math.max(first, to - 60_000 * Number(at("span").value)), to };
}

function drawCharts() {
  const time = shownTime();
  const points = seen.points.filter((point) => point.atMs >= time.from);
  setText("charts-time", `${clock(time.from)} to ${clock(time.to)}`);
  for (const chart of CHARTS) {
    const names = Object.keys(chart.lines);
    chart.figure.hidden = !seen.points.some((point) => names.some((name) => isNumber(point[name])));
    if (!chart.figure.hidden) drawChart(chart, names, points, time);
  }
}

const isNumber = (value) => value !== null && value !== undefined;

function drawChart(chart, names, points, time) {
  const width = Math.max(120, chart.svg.clientWidth);
  const thin = thinned(points, names, width / 2);
  const highest = Math.max(0, ...thin.flatMap((point) => names.map((name) => point[name] ?? 0)));
  const most = chart.most ?? roundUp(highest);
  const place = (atMs, value) => {
    const x = ((atMs - time.from) / (time.to - time.from)) * width;
    return [x.toFixed(1), (HEIGHT - 1 - (value / most) * (HEIGHT - TOP - 2)).toFixed(1)];
  };
  const parts = [0, most / 2, most].map((value) => {
    const [, y] = place(0, value);
    return make("line", { x1: 0, x2: width, y1: y, y2: y });
  });
  names.forEach((name, index) =>
    parts.push(make("path", { class: `line-${index}`, d: pathOf(thin, name, place) })),
  );
  parts.push(make("text", { x: 0, y: TOP - 4 }, chart.write(most)));
  const pointed = pointedMs === null ? null : nearest(points, pointedMs);
  if (pointed) {
    const [x] = place(pointed.atMs, 0);
    parts.push(make("line", { class: "pointed", x1: x, x2: x, y1: TOP, y2: HEIGHT }));
  }
  chart.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  chart.svg.replaceChildren(...parts);
  chart.values.replaceChildren(...valuesOf(chart, names, pointed ?? points.at(-1)));
  chart.svg.setAttribute("aria-label", describeChart(chart, names, points));
}

// A line with gaps where there is no value; a value between two gaps is a dot.
function pathOf(points, name, place) {
  let path = "";
  let drawing = false;
  for (const point of points) {
    if (isNumber(point[name])) {
      const [x, y] = place(point.atMs, point[name]);
      path += drawing ? `L${x} ${y}` : `M${x} ${y}h0`;
    }
    drawing = isNumber(point[name]);
  }
  return path;
}

const nearest = (points, atMs) =>
  points.reduce((best, point) => (Math.abs(point.atMs - atMs) < Math.abs(best.atMs - atMs) ? point : best), points[0]);

const written = (chart, value) => (isNumber(value) ? chart.write(value) : "–");

function valuesOf(chart, names, point) {
  const values = names.map((name, index) => {
    const label = chart.lines[name];
    const parts = label ? [make("i", { class: `key-${index}` }), `${label} `] : [];
    return make("span", {}, ...parts, make("b", {}, written(chart, point?.[name])));
  });
  const time = pointedMs === null || !point ? [] : [make("time", {}, clock(point.atMs))];
  return [...time, ...values];
}

const clock = (atMs) => new Date(atMs).toLocaleTimeString("en-GB");

function describeChart(chart, names, points) {
  const parts = names.map((name) => {
    const values = points.map((point) => point[name]).filter(isNumber);
    if (values.length === 0) return `${chart.lines[name]} nothing yet`;
    return `${chart.lines[name]} now ${written(chart, points.at(-1)[name])}, at most ${chart.write(Math.max(...values))}`;
  });
  return `${chart.title}: ${parts.map((part) => part.trim()).join("; ")}`;
}
