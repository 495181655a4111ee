// The models that are served: loading, unloading and pulling them.

let pulling = null;

function showLoaded() {
  const rows = JSON.stringify(state.models.map((model) => [model.id, model.status.value]));
  if (rows === at("loaded").dataset.rows) return; // keeps the focus on a button
  at("loaded").dataset.rows = rows;
  at("loaded").replaceChildren(...state.models.map(rowOf));
}

function rowOf({ id, status }) {
  const isLoaded = status.value === "loaded";
  const verb = isLoaded ? "Unload" : "Load";
  const button = make("button", { type: "button", class: "small", "aria-label": `${verb} ${id}` }, verb);
  button.disabled = !["loaded", "unloaded"].includes(status.value);
  button.addEventListener("click", () => (isLoaded ? keep(id, 0) : keep(id)));
  return make("li", {}, make("span", {}, make("bdi", {}, id), `, ${status.value}`), button);
}

// Ollama's way to load and unload: a request without texts, which says how long to keep the model.
async function keep(name, seconds) {
  say(seconds === 0 ? `Unloading ${name}…` : `Loading ${name}…`);
  const body = seconds === undefined ? { model: name } : { model: name, keep_alive: seconds };
  try {
    await callJson("api/embed", body);
    say(seconds === 0 ? `Unloaded ${name}. The next request loads it again.` : `Loaded ${name}.`);
  } catch (error) {
    report(error);
  }
  await poll();
}

// The server looks at the disk while it answers with what it knew before, so ask for a while.
async function lookFor(name, before, running) {
  for (let tries = 0; tries < 30 && running === pulling; tries++) {
    await poll();
    if (state.models.some((model) => !before.has(model.id))) {
      at("pull-note").textContent = `Pulled ${name}.`;
      return;
    }
    if (tries === 4) {
      showPulling(false);
      at("pull-note").textContent =
        `Pulled ${name}. If it is not among the models above, restart the server with --pulled to serve it.`;
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

async function pull() {
  const name = at("pull").value.trim();
  if (!name) {
    at("pull-note").textContent = "Enter the name of a model.";
    at("pull").focus();
    return;
  }
  pulling?.abort();
  const running = (pulling = new AbortController());
  showPulling(true);
  at("pull-note").textContent = `Asking for ${name}…`;
  const before = new Set(state.models.map((model) => model.id));
  try {
    await callLines("api/pull", { model: name }, showPullStep, running.signal);
    at("pull").value = "";
    await lookFor(name, before, running);
  } catch (error) {
    if (running !== pulling) return;
    at("pull-note").textContent =
      error.name === "AbortError"
        ? "Stopped. Pull it again to continue where it stopped."
        : `Not pulled: ${error.message}`;
    if (error.status === 401) report(error);
  } finally {
    if (running === pulling) showPulling(false);
  }
}

function showPulling(isRunning) {
  at("pull-start").disabled = isRunning;
  at("pull-cancel").hidden = !isRunning;
  at("pull-progress").hidden = true;
  at("pull-size").textContent = "";
}

function showPullStep({ status, total, completed, error }) {
  if (error) throw new Refused(200, { message: error });
  at("pull-progress").hidden = !total;
  at("pull-note").textContent = total ? "Downloading…" : `${status}…`;
  at("pull-size").textContent = total ? `${megabytes(completed ?? 0)} of ${megabytes(total)}` : "";
  if (!total) return;
  at("pull-progress").max = total;
  at("pull-progress").value = completed ?? 0;
}
