// The table of models: what each takes and does.

const FAR_YEAR = 2300; // Ollama's way to say that a model stays

const withoutTag = (name) => name.replace(/:latest$/, "");

function showModelRows(counters, loaded, now) {
  const byName = new Map(loaded.map((model) => [withoutTag(model.name), model]));
  const last = seen.points.at(-1);
  const of = (name) => (counters ? byModel(counters, name) : new Map());
  const [requests, speeds, waiting] = [of("model_requests_total"), of("tokens_per_second"), of("waiting_requests")];
  const names = [...at("models").tHead.rows[0].cells].slice(1).map((cell) => cell.textContent);
  at("model-rows").replaceChildren(
    ...state.models.map(({ id, status }) => {
      const own = byName.get(withoutTag(id));
      const cells = [
        stateWords(status),
        own ? megabytes(own.size) : "–",
        counters ? whole(requests.get(id) ?? 0) : "–",
        last?.models ? whole(last.models.get(id) ?? 0) : "–",
        speeds.get(id) > 0 ? whole(speeds.get(id)) : "–",
        waiting.has(id) ? whole(waiting.get(id)) : "–",
        own ? unloadWords(new Date(own.expires_at), now) : "–",
      ];
      const head = make("th", { scope: "row" }, make("bdi", {}, id));
      return make("tr", {}, head, ...cells.map((cell, index) => make("td", { "data-name": names[index] }, cell)));
    }),
  );
}

function stateWords({ value, engine, restarts }) {
  const parts = [value];
  if (engine && engine !== "running") parts.push(`its process is ${engine}`);
  if (restarts) parts.push(`restarted ${counted(restarts, "time")}`);
  return parts.join(", ");
}

function unloadWords(when, now) {
  if (when.getFullYear() > FAR_YEAR) return "never";
  return `in ${lengthOf((when - now) / 1000)}`;
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
