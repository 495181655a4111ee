// The table of models: what each takes and does.

const FAR_YEAR = 2300; // Ollama's way to say that a model stays
const MAX_MODELS = 50;
const SMALL_WIDTH = 80;
const SMALL_HEIGHT = 20;

const withoutTag = (name) => name.replace(/:latest$/, "");

function showModelRows(counters, loaded, nowMs) {
  const work = workOf(counters);
  const byName = new Map(loaded.map((model) => [withoutTag(model.name), model]));
  const heads = [...at("models").tHead.rows[0].cells].map((cell) => cell.textContent);
  const isAsleep = ({ status }) => Number(status.value === "unloaded");
  const sorted = [...state.models].sort((one, other) => isAsleep(one) - isAsleep(other));
  const more = sorted.length - MAX_MODELS;
  setText("models-more", more > 0 ? `${counted(more, "more model")} can be loaded.` : "");
  at("model-rows").replaceChildren(
    ...sorted.slice(0, MAX_MODELS).map((model) => {
      const head = make("th", { scope: "row" }, make("bdi", {}, model.id));
      const cells = cellsOf(model, byName.get(withoutTag(model.id)), work, nowMs);
      return make("tr", {}, head, ...cells.map((cell, index) => make("td", { "data-name": heads[index + 1] }, ...cell)));
    }),
  );
}

// What the counters say of each model; nothing if they are disabled.
function workOf(counters) {
  const of = (name) => (counters ? byModel(counters, name) : new Map());
  return {
    requests: counters ? of("model_requests_total") : null,
    now: seen.points.at(-1).models ?? null,
    fastest: of("tokens_per_second"),
    waiting: of("waiting_requests"),
  };
}

// What is in each cell, as children of its element.
function cellsOf({ id, status }, own, { requests, now, fastest, waiting }, nowMs) {
  return [
    [stateWords(status)],
    [own ? megabytes(own.size) : "–"],
    [requests ? whole(requests.get(id) ?? 0) : "–"],
    now ? [smallLine(id), whole(now.get(id) ?? 0)] : ["–"],
    [fastest.get(id) > 0 ? whole(fastest.get(id)) : "–"],
    [waiting.has(id) ? whole(waiting.get(id)) : "–"],
    [own ? unloadWords(new Date(own.expires_at), nowMs) : "–"],
  ];
}

// A model's tokens per second in the time that the charts show, without an axis.
function smallLine(id) {
  const time = shownTime();
  const points = seen.points
    .filter((point) => point.atMs >= time.from)
    .map(({ atMs, models }) => ({ atMs, tokens: models ? (models.get(id) ?? 0) : null }));
  const few = thinned(points, ["tokens"], SMALL_WIDTH);
  const most = Math.max(1, ...few.map(({ tokens }) => tokens ?? 0));
  const place = (atMs, tokens) => [
    (((atMs - time.from) / (time.to - time.from)) * SMALL_WIDTH).toFixed(1),
    (SMALL_HEIGHT - 1 - (tokens / most) * (SMALL_HEIGHT - 2)).toFixed(1),
  ];
  const svg = make("svg", { viewBox: `0 0 ${SMALL_WIDTH} ${SMALL_HEIGHT}`, "aria-hidden": "true" });
  svg.append(make("path", { class: "line-0", d: pathOf(few, "tokens", place) }));
  return svg;
}

function stateWords({ value, engine, restarts }) {
  const parts = [value];
  if (engine && engine !== "running") parts.push(`its process is ${engine}`);
  if (restarts) parts.push(`restarted ${counted(restarts, "time")}`);
  return parts.join(", ");
}

function unloadWords(when, nowMs) {
  if (when.getFullYear() > FAR_YEAR) return "never";
  return `in ${lengthOf((when - nowMs) / 1000)}`;
}

// "40 s", "12 min", "3 h 5 min", "2 d 4 h".
function lengthOf(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return `${min} min`;
  const h = Math.floor(min / 60);
  return h < 24 ? `${h} h ${min % 60} min` : `${Math.floor(h / 24)} d ${h % 24} h`;
}
