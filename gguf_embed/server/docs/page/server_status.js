// The tab "Server": the server's status, updated every two seconds while the page is visible.

const POLL_MS = 2000;
const KEPT = 31; // points of the line, for one minute; the drawing is 30 wide

// The server's counters, or null if they are disabled.
async function counters(signal) {
  try {
    return parseMetrics(await call("metrics", null, signal));
  } catch (error) {
    if (error.status === 501) return null;
    throw error;
  }
}

const difference = (before, after, name) =>
  (after.get(`gguf_embed_${name}`) ?? 0) - (before.get(`gguf_embed_${name}`) ?? 0);

async function poll() {
  clearTimeout(state.polling);
  if (document.hidden || state.locked) return;
  try {
    showModels((await callJson("v1/models")).data);
    const now = await counters();
    at("rate-figure").hidden = now === null;
    at("live-note").textContent = now
      ? ""
      : "Metrics are disabled on this server, so its speed and batch fill are unknown.";
    showLoad(now ?? readyAsCounters(await callJson("ready")), now !== null);
  } catch (error) {
    if (error.status === 401) return report(error);
    at("live-note").textContent = error.message;
  }
  clearTimeout(state.polling);
  if (!document.hidden) state.polling = setTimeout(poll, POLL_MS);
  return undefined;
}

const readyAsCounters = (ready) =>
  new Map(["queued_texts", "queued_tokens", "running_texts"].map((name) => [`gguf_embed_${name}`, ready[name]]));

function showLoadedCount() {
  const loaded = state.models.filter((model) => model.status.value === "loaded");
  at("n-loaded").textContent = `${loaded.length} of ${state.models.length}`;
}

function showLoad(now, hasCounters) {
  const value = (name) => now.get(`gguf_embed_${name}`) ?? 0;
  at("waiting").textContent = value("queued_texts")
    ? `${counted(value("queued_texts"), "text")}, ${counted(value("queued_tokens"), "token")}`
    : "0 texts";
  at("running").textContent = counted(value("running_texts"), "text");
  if (!hasCounters) return;
  const sample = { now, atMs: performance.now() };
  const before = state.sample;
  state.sample = sample;
  if (!before) return;
  const perSecond = Math.max(0, difference(before.now, now, "tokens_total")) / ((sample.atMs - before.atMs) / 1000);
  at("speed").textContent = Math.round(perSecond).toLocaleString("en");
  const batches = difference(before.now, now, "batch_fill_ratio_count");
  if (batches > 0)
    at("fill").textContent = `${Math.round((100 * difference(before.now, now, "batch_fill_ratio_sum")) / batches)}%`;
  state.rates = [...state.rates, perSecond].slice(-KEPT);
  const most = Math.max(1, ...state.rates);
  at("unseen").setAttribute("d", `M0 19H${KEPT - state.rates.length}`);
  at("rate").firstElementChild.setAttribute(
    "d",
    state.rates
      .map(
        (rate, index) =>
          `${index ? "L" : "M"}${KEPT - state.rates.length + index} ${(19 - (18 * rate) / most).toFixed(1)}`,
      )
      .join(""),
  );
}
