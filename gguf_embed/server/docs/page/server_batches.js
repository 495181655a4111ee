// The batches of /v1/batches: how far each is, what went wrong, and stopping it.

const MAX_BATCHES = 20;
const REST_ROUNDS = 5; // while no batch is active, they are asked for this seldom
const ERROR_BYTES = 16_384; // of an error file, of which the first lines are shown
const MAX_ERRORS = 5;
const ACTIVE = new Set(["validating", "in_progress", "finalizing", "cancelling"]);

const batchRows = new Map(); // id → what is on the page
let batchRounds = 0;
let anyActive = true;

async function pollBatches(counters, signal) {
  const stored = counters ? sumOf(labelled(counters, `${OWN}stored_batches`)) : 1; // 1: unknown
  batchRounds += 1;
  if (stored > 0 && (anyActive || batchRounds % REST_ROUNDS === 1)) await readBatches(signal);
  else if (stored === 0) showBatches([], false);
}

async function readBatches(signal) {
  try {
    const { data, has_more: hasMore } = await callJson(`v1/batches?limit=${MAX_BATCHES}`, null, signal);
    anyActive = data.some(({ status }) => ACTIVE.has(status));
    showBatches(data, hasMore);
  } catch (error) {
    if (error.status !== 501 && error.status !== 503) throw error;
    anyActive = false;
    setText("batches-note", error.message);
  }
}

function showBatches(batches, hasMore) {
  const none = "None yet. Files with many requests, sent to /v1/files and /v1/batches, are computed in the background.";
  const more = hasMore ? `The newest ${MAX_BATCHES} are shown.` : "";
  setText("batches-note", batches.length ? more : none);
  const kept = new Set(batches.map(({ id }) => id));
  for (const [id, row] of batchRows) if (!kept.has(id)) removeRow(id, row);
  batches.forEach((batch, index) => {
    const row = batchRows.get(batch.id) ?? makeRow(batch);
    updateRow(row, batch);
    if (at("batches").children[index] !== row.element)
      at("batches").insertBefore(row.element, at("batches").children[index] ?? null);
  });
}

function removeRow(id, row) {
  row.element.remove();
  batchRows.delete(id);
}

function makeRow({ id, created_at: createdS, endpoint }) {
  const row = {
    state: make("span", { class: "badge" }),
    bar: make("progress", { "aria-label": `Progress of ${id}` }),
    words: make("p", { class: "hint" }),
    errors: make("ul", { class: "errors", hidden: "" }),
    stop: make("button", { type: "button", class: "small", "aria-label": `Stop ${id}` }, "Stop"),
    look: make("button", { type: "button", class: "small", "aria-label": `Show errors of ${id}` }, "Show errors"),
  };
  const about = make("span", { class: "soft" }, `${endpoint}, created ${dayAndTime(1000 * createdS)}`);
  const name = make("h3", {}, id);
  row.question = makeQuestion(row, id);
  const head = make("div", { class: "head" }, name, row.state, about, row.look, row.stop);
  row.element = make("li", {}, head, row.bar, row.words, row.question, row.errors);
  row.stop.addEventListener("click", () => askToStop(row));
  row.look.addEventListener("click", () => showErrors(row));
  batchRows.set(id, row);
  return row;
}

const dayAndTime = (atMs) =>
  new Date(atMs).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

function updateRow(row, batch) {
  const { status, errors, request_counts: counts } = batch;
  row.batch = batch;
  row.state.textContent = status.replace("_", " ");
  row.state.dataset.state = status;
  row.bar.max = Math.max(1, counts.total);
  row.bar.value = counts.completed + counts.failed;
  row.bar.hidden = counts.total === 0;
  const words = batchWords(batch, Date.now() / 1000);
  if (row.words.textContent !== words) row.words.textContent = words;
  row.stop.hidden = !ACTIVE.has(status) || status === "cancelling";
  if (row.stop.hidden) row.question.hidden = true;
  row.look.hidden = !errors && !batch.error_file_id;
}

// "1,200 of 5,000 requests, 3 failed; 45,000 tokens; about 3 min left"
function batchWords({ status, request_counts: counts, usage, in_progress_at: sinceS, errors }, nowS) {
  const done = counts.completed + counts.failed;
  const failed = counts.failed ? `, ${counts.failed.toLocaleString("en")} failed` : "";
  const parts = counts.total ? [`${done.toLocaleString("en")} of ${counted(counts.total, "request")}${failed}`] : [];
  if (usage.total_tokens) parts.push(counted(usage.total_tokens, "token"));
  if (status === "in_progress" && done > 0 && nowS > sinceS)
    parts.push(`about ${lengthOf(((nowS - sinceS) / done) * (counts.total - done))} left`);
  if (errors) parts.push(counted(errors.data.length, "error"));
  return parts.join("; ");
}

function makeQuestion(row, id) {
  const yes = make("button", { type: "button", class: "small main" }, "Stop the batch");
  const no = make("button", { type: "button", class: "small" }, "Keep it running");
  yes.addEventListener("click", () => stopBatch(row, id));
  no.addEventListener("click", () => closeQuestion(row));
  const sentence = "Stop this batch? It cannot be continued. What is computed stays in its output file.";
  const question = make("div", { class: "alert", role: "alertdialog", "aria-label": `Stop ${id}?` }, make("p", {}, sentence));
  question.append(make("div", { class: "actions" }, yes, no));
  question.hidden = true;
  return question;
}

function askToStop(row) {
  row.question.hidden = false;
  row.question.querySelector("button + button").focus();
}

function closeQuestion(row) {
  row.question.hidden = true;
  row.stop.focus();
}

async function stopBatch(row, id) {
  closeQuestion(row);
  try {
    await callJson(`v1/batches/${id}/cancel`, {});
    anyActive = true;
    await readBatches();
  } catch (error) {
    if (error.status === 401) report(error);
    else setText("batches-note", error.message);
  }
}

async function showErrors(row) {
  if (!row.errors.hidden) return nameErrors(row, true);
  try {
    row.errors.replaceChildren(...(await errorLines(row.batch)).map((line) => make("li", {}, line)));
  } catch (error) {
    row.errors.replaceChildren(make("li", {}, error.message));
  }
  return nameErrors(row, false);
}

function nameErrors(row, hidden) {
  const words = hidden ? "Show errors" : "Hide errors";
  row.errors.hidden = hidden;
  row.look.textContent = words;
  row.look.setAttribute("aria-label", `${words} of ${row.batch.id}`);
}

async function errorLines({ errors, error_file_id: fileId }) {
  if (errors) return shownFirst(errors.data.map(({ line, message }) => (line ? `Line ${line}: ${message}` : message)));
  const text = await call(`v1/files/${fileId}/content`, null, undefined, { Range: `bytes=0-${ERROR_BYTES - 1}` });
  const lines = text.split("\n");
  lines.pop(); // empty, or cut
  return shownFirst(lines.map((line) => failureWords(JSON.parse(line))));
}

function failureWords({ custom_id: id, response, error }) {
  const said = response?.body?.error;
  const message = error?.message ?? (typeof said === "string" ? said : said?.message) ?? "";
  return `${id}: ${response ? `${response.status_code} ` : ""}${message}`;
}

function shownFirst(lines) {
  if (lines.length <= MAX_ERRORS) return lines;
  return [...lines.slice(0, MAX_ERRORS), "More are in the error file."];
}
