// The tab "Server": asks the server every two seconds while the page is visible, and says when it is gone.

const POLL_MS = 2000;
const PATIENCE_MS = 10_000; // for one answer
const KEPT_MS = 3_600_000;

const seen = { points: [], look: null }; // what the charts show, and what the counters said last
let goneSince = null;

// The server's counters, or null if they are disabled.
async function counters(signal) {
  try {
    return parseMetrics(await call("metrics", null, signal));
  } catch (error) {
    if (error.status === 501) return null;
    throw error;
  }
}

const difference = (before, after, name) => (after.get(OWN + name) ?? 0) - (before.get(OWN + name) ?? 0);

async function poll() {
  clearTimeout(state.polling);
  if (document.hidden || state.locked) return;
  try {
    await lookAround(AbortSignal.timeout(PATIENCE_MS));
    showBack();
  } catch (error) {
    if (error.status === 401) return report(error);
    showGone(error);
  }
  clearTimeout(state.polling);
  if (!document.hidden) state.polling = setTimeout(poll, POLL_MS);
  return undefined;
}

async function lookAround(signal) {
  showModels((await callJson("v1/models", null, signal)).data);
  const now = await counters(signal);
  const ready = now ? null : await callJson("ready", null, signal);
  const look = now ? lookAt(now, Date.now()) : lookAtReady(ready, Date.now());
  remember(look);
  showLoad(look, now ? now.get(`${OWN}queued_tokens`) : ready.queued_tokens);
  if (openTab() === "server") await showServer(now, signal);
}

async function showServer(now, signal) {
  drawCharts();
  showModelRows(now, (await callJson("api/ps", null, signal)).models, Date.now());
  await pollBatches(now, signal);
}

// Adds a point. A pause, such as a hidden tab, is a gap in the lines; rates over moments would only be noise.
function remember(look) {
  const before = seen.look;
  if (before && look.atMs - before.atMs < POLL_MS / 4) return;
  seen.look = look;
  if (before && look.atMs - before.atMs > 3 * POLL_MS) seen.points.push({ atMs: before.atMs + 1 });
  const isFirst = !before || !look.durations || restarted(before, look);
  seen.points.push(isFirst ? instant(look) : pointBetween(before, look));
  while (seen.points[0].atMs < look.atMs - KEPT_MS) seen.points.shift();
}

function showLoad(look, queuedTokens) {
  const point = seen.points.at(-1);
  setText("waiting", look.queued ? `${counted(look.queued, "text")}, ${counted(queuedTokens, "token")}` : "0 texts");
  setText("running", counted(look.running, "text"));
  at("charts-card").hidden = !look.durations;
  setText("live-note", look.durations ? "" : "Metrics are disabled on this server, so most of this is unknown: start it without --no-metrics.");
  if (isNumber(point.tokens)) setText("speed", whole(point.tokens));
  if (isNumber(point.fill)) setText("fill", percent(point.fill));
  if (look.startedS) setText("uptime", lengthOf(look.atMs / 1000 - look.startedS));
}

function showLoadedCount() {
  const loaded = state.models.filter((model) => model.status.value === "loaded");
  setText("n-loaded", `${loaded.length} of ${state.models.length}`);
}

// Only a change is written, because it is read aloud.
function setText(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

function showGone({ status, message }) {
  goneSince ??= Date.now();
  seen.points.push({ atMs: Date.now() }); // a gap in the lines
  const why = status ? `The server answers ${status} (${message}), since` : `${message} No answer since`;
  setText("gone", `${why} ${clock(goneSince)}. The page asks again every ${POLL_MS / 1000} seconds.`);
  at("gone").hidden = false;
  for (const id of ["waiting", "running", "speed", "fill", "uptime"]) setText(id, "–");
  if (openTab() === "server") drawCharts();
}

function showBack() {
  if (goneSince === null) return;
  goneSince = null;
  at("gone").hidden = true;
  setText("back", `The server answers again since ${clock(Date.now())}.`);
}
