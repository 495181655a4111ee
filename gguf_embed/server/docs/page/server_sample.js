// Pure functions: what the server's counters say at one time, and what happened between two times.

// Requests for these tell about the server; they are not its work.
const LOOKS = new Set(["/metrics", "/ready", "/health", "/v1/health", "/version", "/props", "/", "/docs", "/openapi.json"]);
["/models", "/v1/models", "/api/ps", "/api/tags", "/v1/batches", "unknown"].forEach((route) => LOOKS.add(route));

const OWN = "gguf_embed_";

// [[labels, value], …] of one metric: labels is an object.
function labelled(counters, name) {
  const found = [];
  for (const [written, value] of counters)
    if (written.startsWith(`${name}{`)) found.push([readLabels(written.slice(name.length)), value]);
  return found;
}

function readLabels(written) {
  const labels = {};
  for (const [, name, value] of written.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
    labels[name] = value.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));
  return labels;
}

const isWork = ([{ route }]) => !LOOKS.has(route);
const sumOf = (entries) => entries.reduce((sum, [, value]) => sum + value, 0);

// Value by model.
const byModel = (counters, name) => new Map(labelled(counters, OWN + name).map(([{ model }, value]) => [model, value]));

// All that the tab shows, as counted at `atMs`. What the server does not count is undefined.
function lookAt(counters, atMs) {
  const requests = labelled(counters, `${OWN}requests_total`).filter(isWork);
  const lookups = labelled(counters, `${OWN}cache_texts_total`);
  const durations = labelled(counters, `${OWN}request_duration_seconds_bucket`).filter(isWork);
  return {
    atMs,
    startedS: counters.get("process_start_time_seconds"),
    requests: sumOf(requests),
    errors: sumOf(requests.filter(([{ status }]) => Number(status) >= 400)),
    tokens: counters.get(`${OWN}tokens_total`),
    durationSum: sumOf(labelled(counters, `${OWN}request_duration_seconds_sum`).filter(isWork)),
    durations: bucketsOf(durations),
    fillSum: counters.get(`${OWN}batch_fill_ratio_sum`),
    batches: counters.get(`${OWN}batch_fill_ratio_count`),
    cpuS: counters.get("process_cpu_seconds_total"),
    memory: counters.get("process_resident_memory_bytes"),
    queued: counters.get(`${OWN}queued_texts`),
    running: counters.get(`${OWN}running_texts`),
    lookups: sumOf(lookups),
    hits: sumOf(lookups.filter(([{ outcome }]) => outcome !== "miss")),
    modelRequests: byModel(counters, "model_requests_total"),
    modelTokens: byModel(counters, "model_tokens_total"),
  };
}

// The same where the counters are disabled.
const lookAtReady = (ready, atMs) => ({ atMs, queued: ready.queued_texts, running: ready.running_texts });

// Bound in seconds → requests that took at most that long, of all routes.
function bucketsOf(entries) {
  const buckets = new Map();
  for (const [{ le }, value] of entries) {
    const bound = le === "+Inf" ? Infinity : Number(le);
    buckets.set(bound, (buckets.get(bound) ?? 0) + value);
  }
  return buckets;
}

// One point of the charts. Null: nothing to tell, because nothing happened or nothing was counted.
function pointBetween(before, after) {
  const seconds = (after.atMs - before.atMs) / 1000;
  const more = (name) => (after[name] === undefined ? null : Math.max(0, after[name] - (before[name] ?? 0)));
  const rate = (name) => (more(name) === null ? null : more(name) / seconds);
  const share = (part, whole) => (more(whole) ? more(part) / more(whole) : null);
  const buckets = new Map([...after.durations].map(([bound, n]) => [bound, n - (before.durations.get(bound) ?? 0)]));
  const n = buckets.get(Infinity) ?? 0;
  return {
    ...instant(after),
    requests: rate("requests"),
    errors: rate("errors"),
    tokens: rate("tokens"),
    mean: n > 0 ? (1000 * (after.durationSum - before.durationSum)) / n : null,
    p95: n > 0 ? 1000 * quantile(buckets, 0.95) : null,
    fill: share("fillSum", "batches"),
    cpu: rate("cpuS"),
    cache: share("hits", "lookups"),
    models: new Map(
      [...after.modelTokens].map(([name, tokens]) => [name, (tokens - (before.modelTokens.get(name) ?? 0)) / seconds]),
    ),
  };
}

// A point without rates: the first one, or the first after a restart.
const instant = ({ atMs, queued = null, running = null, memory = null }) => ({ atMs, queued, running, memory });

const restarted = (before, after) => before.startedS !== after.startedS || after.requests < before.requests;

// Interpolated in its bucket, as Prometheus does.
function quantile(buckets, share) {
  const bounds = [...buckets.keys()].sort((one, other) => one - other);
  const wanted = share * buckets.get(Infinity);
  let low = 0;
  let below = 0;
  for (const bound of bounds) {
    const n = buckets.get(bound);
    if (n >= wanted && n > below) {
      if (bound === Infinity) return low;
      return low + ((bound - low) * (wanted - below)) / (n - below);
    }
    low = bound;
    below = n;
  }
  return low;
}

// Means of neighbors, so that at most `n` points are left. A break (no value at all) stays one.
function thinned(points, names, n) {
  const step = Math.ceil(points.length / n);
  if (step <= 1) return points;
  const groups = [];
  for (let start = 0; start < points.length; start += step) groups.push(points.slice(start, start + step));
  return groups.map((group) => {
    const point = { atMs: group.at(-1).atMs };
    for (const name of names) {
      const values = group.map((one) => one[name]).filter((value) => value !== null && value !== undefined);
      point[name] = values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
    }
    return point;
  });
}

// The end of an axis: 1, 2 or 5 times a power of ten.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((end) => end >= value * (1 - 1e-9));
}
