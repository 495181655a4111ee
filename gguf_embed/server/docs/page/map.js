// The projection: all texts as points in a plane.

const MAP_ZOOM = 40;
const LABELS = 60; // at most so many at once
const NEAR = 14; // pixels from a point at which it is read out
const drawn = { points: [], spots: [], width: 0, height: 0, labels: null };

const mapZoom = zoomable("map", MAP_ZOOM, drawMap);

function showMap() {
  const { projection } = state.shown;
  at("map-note").textContent = noteOnMap(state.shown);
  at("map-readout").textContent = "";
  at("map-frame").hidden = at("map-keys").hidden = !projection;
  at("map").replaceChildren();
  drawn.points = [];
  if (!projection) return;
  makePoints();
  mapZoom.reset();
}

function noteOnMap({ n, projection }) {
  if (n < 3) return "With at least three texts, this chart shows which ones are similar.";
  if (projection === null) return "All texts have the same vector.";
  const [first, second] = projection.shares.map((share) => Math.round(share * 100));
  const rest = 100 - first - second;
  const hidden = rest > 0 ? `; the remaining ${rest}% is not shown.` : ".";
  return `Principal components: the horizontal axis shows ${first}% of the variance, the vertical axis ${second}%${hidden}`;
}

// The elements, once; zooming only moves them.
function makePoints() {
  const { n, queryVector } = state.shown;
  const radius = n > MANY ? 3.5 : 4.5;
  drawn.points = Array.from({ length: n }, () => make("circle", { r: radius }));
  if (queryVector) drawn.points.push(make("path", { class: "query", d: "M0 -8L8 0L0 8L-8 0Z" }));
  drawn.labels = make("g");
  drawn.across = make("line");
  drawn.down = make("line");
  drawn.svg = make("svg", { "aria-hidden": "true" }, drawn.across, drawn.down, ...drawn.points, drawn.labels);
  at("map").replaceChildren(drawn.svg);
}

function drawMap() {
  if (drawn.points.length === 0) return;
  const { projection, queryVector } = state.shown;
  const width = Math.max(260, at("map").clientWidth);
  const height = Math.round(Math.min(440, Math.max(280, width * 0.7)));
  const places = queryVector ? [...projection.points, projection.place(queryVector)] : projection.points;
  drawn.spots = fit(places, width, height).map((spot) => seenAt(spot, width, height));
  drawn.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [middleX, middleY] = seenAt([width / 2, height / 2], width, height);
  setAll(drawn.across, { x1: 0, x2: width, y1: middleY, y2: middleY });
  setAll(drawn.down, { x1: middleX, x2: middleX, y1: 0, y2: height });
  const seen = drawn.points.map((point, index) => placePoint(point, drawn.spots[index], width, height));
  const indexes = [...seen.keys()].filter((index) => seen[index]);
  drawn.labels.replaceChildren(...labelsOf(indexes, width, height));
  const shown = indexes.filter((index) => index < state.shown.n).length;
  at("map").setAttribute("aria-roledescription", `chart, ${counted(shown, "point")} in view`);
}

function setAll(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

// Where a spot of the whole drawing is in what is seen of it.
function seenAt([x, y], width, height) {
  const { view } = mapZoom;
  return [(x - view.x * width) * view.scale, (y - view.y * height) * view.scale];
}

// Moves a point, and says whether it is in view.
function placePoint(point, [x, y], width, height) {
  const isSeen = x > -6 && y > -6 && x < width + 6 && y < height + 6;
  point.toggleAttribute("hidden", !isSeen);
  if (point.tagName === "path") point.setAttribute("transform", `translate(${x} ${y})`);
  else if (isSeen) setAll(point, { cx: x, cy: y });
  return isSeen;
}

// The query's label goes first, so that it always has one.
function labelsOf(indexes, width, height) {
  const isQuery = (index) => index === state.shown.n;
  const sorted = [...indexes.filter(isQuery), ...indexes.filter((index) => !isQuery(index))];
  const names = sorted.map((index) => (isQuery(index) ? ["Query"] : namesOf(index, indexes.length > MANY, width)));
  const spots = sorted.map((index) => drawn.spots[index]);
  const placed = placeLabels(spots, names, width, height, LABELS);
  return placed.filter(Boolean).map(({ x, y, anchor, text }) => make("text", { x, y, "text-anchor": anchor }, text));
}

// A label in several lengths.
function namesOf(index, onlyNumber, width) {
  const number = (index + 1).toLocaleString("en");
  if (onlyNumber) return [number];
  const text = state.shown.texts[index];
  const lengths = [width < 420 ? 16 : 26, 10];
  return [...lengths.map((length) => `${number} ${isolated(short(text, length))}`), number];
}

// Says which text the point is that the pointer is close to.
function readMap(event) {
  if (drawn.points.length === 0) return;
  const box = at("map").getBoundingClientRect();
  const index = nearestSpot(drawn.spots, event.clientX - box.left, event.clientY - box.top, NEAR);
  if (index < 0) return;
  const { n, texts, query } = state.shown;
  const name = index === n ? "Query" : (index + 1).toLocaleString("en");
  at("map-readout").textContent = `${name} ${quoted(index === n ? query : texts[index], 120)}`;
}
