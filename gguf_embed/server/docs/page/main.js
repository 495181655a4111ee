// Computing, the API key, the theme, and event handlers. Must be the last script.

// Shows the server's error message; a 401 shows the form for the key.
function report(error) {
  if (error.name === "AbortError") return say("Canceled.");
  if (error.status === 401) {
    askForKey(error.message);
    return say("An API key is required.");
  }
  at("error").textContent = error.status ? `${error.status}: ${error.message}` : error.message;
  at("error").hidden = false;
  return say("");
}

function say(sentence) {
  at("status").textContent = sentence;
}

function askForKey(message) {
  state.locked = true;
  at("key-card").hidden = false;
  at("key-error").textContent = message;
  at("key-error").hidden = false;
  at("key").focus();
}

async function useKey(value) {
  key = stored(() => sessionStorage, KEY, value);
  state.locked = false;
  at("key-card").hidden = at("error").hidden = true;
  at("key").value = "";
  at("forget").hidden = key === "";
  await connect();
}

async function connect() {
  try {
    at("version").textContent = (await callJson("version")).version;
    showModels((await callJson("v1/models")).data);
    say("Ready.");
    at("forget").hidden = key === "";
    poll();
  } catch (error) {
    report(error);
    if (error.status !== 401) poll();
  }
}

async function compute() {
  const asked = wanted();
  if (asked.body.input.length === 0) {
    showAge(true);
    report(new Error("Enter at least one text."));
    at("texts").focus();
    return;
  }
  state.running?.abort();
  const running = (state.running = new AbortController());
  at("error").hidden = true;
  at("cancel").hidden = false;
  const asleep = asked.model && asked.model.status.value !== "loaded";
  let result = null;
  say(asleep ? `Loading ${asked.model.id}, then computing…` : "Computing…");
  try {
    const outcome = await embed(asked, running.signal);
    result = { ...asked, ...outcome, asleep };
    if (running === state.running) await show(result, running.signal);
  } catch (error) {
    if (running !== state.running) return;
    showAge(state.shown !== result);
    report(error);
  } finally {
    if (running === state.running) {
      at("cancel").hidden = true;
      state.running = null;
    }
  }
}

async function embed(asked, signal) {
  const before = await counters(signal);
  const started = performance.now();
  const reply = await callJson("v1/embeddings", { ...asked.body, encoding_format: "base64" }, signal);
  const totalMs = performance.now() - started;
  const after = before && (await counters(signal));
  const vectors = reply.data.slice(0, MAX_SHOWN).map((item) => decodeVector(item.embedding));
  const metered = before !== null;
  return { reply, totalMs, vectors, metered, spent: metered ? spentOn(asked.body.input.length, before, after) : null };
}

// The time that the server spent on this request; null if the counters include other requests.
function spentOn(nTexts, before, after) {
  const more = (name) => difference(before, after, name);
  const route = '{route="/v1/embeddings"}';
  const alone = more(`request_duration_seconds_count${route}`) === 1 && more("compute_seconds_count") === 1;
  if (!alone || more("texts_total") !== nTexts) return null;
  return {
    allMs: more(`request_duration_seconds_sum${route}`) * 1000,
    tokenizeMs: more("tokenize_seconds_sum") * 1000,
    engineMs: more("batch_seconds_sum") * 1000,
    nBatches: more("batch_seconds_count"),
  };
}

// Marks the results as those of an earlier request, or removes the mark.
function showAge(old) {
  at("old").hidden = !old;
  at("results").classList.toggle("old", old);
}

async function show(result, signal) {
  state.shown = result;
  at("results").hidden = false;
  showAge(false);
  showNumbers(result);
  showHeat();
  showMap();
  at("tokens").textContent = "";
  const { body, reply, totalMs } = result;
  const nTokens = reply.usage.prompt_tokens;
  const done = `Done: ${counted(body.input.length, "text")}, ${counted(nTokens, "token")}, ${ms(totalMs)}.`;
  say(`${done} Loading the tokens…`);
  showTokens(result, await readTokens(result, signal));
  say(done);
}

const THEMES = ["", "light", "dark"];

function setTheme(name) {
  stored(() => localStorage, THEME, name);
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  at("theme").textContent = `Theme: ${name || "auto"}`;
  if (state.shown) showHeat();
}

function listen(id, event, act) {
  at(id).addEventListener(event, act);
}

listen("form", "submit", (event) => {
  event.preventDefault();
  compute();
});
listen("key-form", "submit", (event) => {
  event.preventDefault();
  useKey(at("key").value.trim()).then(() => state.locked || at("texts").focus());
});
listen("forget", "click", () => useKey(""));
listen("cancel", "click", () => state.running?.abort());
listen("theme", "click", () =>
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3]),
);
listen("model", "change", () => {
  showChosen();
  describeChosen();
  showPictureForm();
});
listen("picture-form", "submit", (event) => {
  event.preventDefault();
  labelPicture();
});
listen("picture", "change", () => takePicture(at("picture").files[0]));
listen("picture-form", "dragover", (event) => {
  event.preventDefault();
  at("picture-form").classList.add("over");
});
listen("picture-form", "dragleave", () => at("picture-form").classList.remove("over"));
listen("picture-form", "drop", (event) => {
  event.preventDefault();
  at("picture-form").classList.remove("over");
  takePicture(event.dataTransfer.files[0]);
});
listen("kind", "change", showPrefix);
listen("size", "input", showSize);
listen("size", "change", () => {
  if (state.shown) compute();
});
listen("texts", "input", countTexts);
listen("blocks", "change", countTexts);
listen("ids", "change", () => at("tokens").classList.toggle("ids", at("ids").checked));
listen("heat", "mouseover", readOut);
listen("heat", "focusin", readOut);
listen("heat", "keydown", moveInHeat);
listen("heat-frame", "scroll", showEdges);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target !== at("key")) {
    event.preventDefault();
    if (event.target === at("labels")) labelPicture();
    else compute();
  }
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
  else clearTimeout(state.polling);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (state.shown) showHeat();
});
let drawnWidth = 0;
new ResizeObserver(() => {
  if (!state.shown || at("map").clientWidth === drawnWidth) return;
  drawnWidth = at("map").clientWidth;
  requestAnimationFrame(() => {
    fitHeat();
    showMap();
  });
}).observe(at("map"));

const theme = stored(() => localStorage, THEME);
setTheme(THEMES.includes(theme) ? theme : "");
showTabOfAddress();
countTexts();
connect();
