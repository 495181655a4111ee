// The API key, and event handlers. Must be the last script.

// Shows what went wrong in the page's words; a 401 shows the form for the key. `texts`: what was sent.
function report(error, texts) {
  if (error.name === "AbortError") return say("Canceled.");
  if (error.status === 401) {
    askForKey();
    return undefined;
  }
  at("error").replaceChildren(error.isQuery ? queryTooLong(error) : wordsFor(error, texts));
  if (isTooLong(error) && !error.isQuery && !at("truncate").checked) at("error").append(make("br"), truncateButton());
  at("error").hidden = false;
  return say("");
}

const queryTooLong = ({ nTokens, limit }) =>
  `The query has ${counted(nTokens, "token")}; the model reads up to ${limit.toLocaleString("en")}. Make it shorter.`;

function truncateButton() {
  const button = make("button", { type: "button", class: "small" }, "Truncate and compute");
  button.addEventListener("click", () => {
    at("truncate").checked = true;
    at("compute").focus();
    compute();
  });
  return button;
}

function hideError() {
  at("error").hidden = true;
}

function say(sentence) {
  at("status").textContent = sentence;
}

// The page cannot do anything without the key, so it shows nothing else.
function askForKey() {
  state.locked = true;
  at("key-card").hidden = false;
  at("panels").hidden = true;
  at("compute").disabled = true;
  at("forget").hidden = true;
  at("key-error").textContent = "The server refuses this key. Enter one that it was started with (--api-key).";
  at("key-error").hidden = key === "";
  at("key").focus();
}

async function useKey(value) {
  key = stored(() => sessionStorage, KEY, value);
  state.locked = false;
  at("key").value = "";
  await connect();
}

async function connect() {
  hideError();
  try {
    at("version").textContent = (await callJson("version")).version;
    showModels((await callJson("v1/models")).data);
    at("key-card").hidden = true;
    at("panels").hidden = false;
    at("forget").hidden = key === "";
    await welcome();
    poll();
  } catch (error) {
    report(error);
    if (error.status !== 401) poll();
  }
}

// The first visit shows results instead of an empty page, if that costs nothing: the examples, on a loaded model.
async function welcome() {
  const isFirst = state.shown === null && at("texts").value === at("texts").defaultValue;
  if (isFirst && openTab() === "try" && chosen()?.status.value === "loaded") await compute();
  if (at("error").hidden) say(canCompute() ? READY : NO_MODEL);
}

function listen(id, event, act) {
  at(id).addEventListener(event, act);
}

// Calls `take` with the first file that is dropped on an element.
function listenToDrop(id, take) {
  const mark = (isOver) => at(id).classList.toggle("over", isOver);
  listen(id, "dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return; // a selected text is the browser's
    event.preventDefault();
    event.stopPropagation();
    mark(true);
  });
  listen(id, "dragleave", () => mark(false));
  listen(id, "drop", (event) => {
    if (event.dataTransfer.files.length === 0) return;
    event.preventDefault();
    event.stopPropagation();
    mark(false);
    take(event.dataTransfer.files[0]);
  });
}

// Calls `act` instead of what the browser does with a form.
function listenToSubmit(id, act) {
  listen(id, "submit", (event) => {
    event.preventDefault();
    act();
  });
}

listenToSubmit("form", compute);
listenToSubmit("picture-form", labelPicture);
listenToSubmit("pull-form", pull);
listenToSubmit("key-form", () => useKey(at("key").value.trim()).then(() => state.locked || at("texts").focus()));
listenToDrop("try", takeFile);
listenToDrop("picture-form", takePicture);
listen("file", "change", () => takeFile(at("file").files[0]));
listen("file-remove", "click", removeFile);
listen("picture", "change", () => takePicture(at("picture").files[0]));
for (const id of ["chunk-by", "chunk-size", "kind"]) listen(id, "change", cutFile);
listen("forget", "click", () => useKey(""));
listen("cancel", "click", () => state.running?.abort());
listen("pull-cancel", "click", () => pulling?.abort());
listen("model", "change", () => {
  showChosen();
  describeChosen();
  showPictureForm();
  cutFile();
});
listen("rank-by", "change", showRerankers);
listen("ranking-more", "click", unfoldRanking);
listen("tokens-more", "click", showMoreTokens);
for (const id of ["kind", "query-kind"]) listen(id, "change", showPrefix);
listen("size", "input", showSize);
listen("size", "change", () => state.shown && compute());
listen("texts", "input", countTexts);
listen("blocks", "change", countTexts);
listen("ids", "change", () => at("tokens").classList.toggle("ids", at("ids").checked));
listen("sort", "change", showMatrix);
listen("span", "change", drawCharts);
listen("charts", "keydown", moveInCharts);
listen("heat", "mouseover", readTable);
listen("heat", "focusin", readTable);
listen("heat", "keydown", moveInTable);
listen("heat-frame", "scroll", showEdges);
listen("matrix", "pointermove", pickAt);
listen("matrix", "pointerdown", pickAt);
listen("matrix", "keydown", moveInMatrix);
listen("map", "keydown", (event) => panByKey(event, mapZoom));
listen("map", "pointermove", readMap);
listen("map", "pointerdown", readMap);
for (const id of Object.keys(DOWNLOADS)) listen(id, "click", () => save(id));
listen("copy", "click", copyVectors);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.target === at("key")) return;
  event.preventDefault();
  if (event.target === at("labels")) labelPicture();
  else if (openTab() === "try") compute();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
  else clearTimeout(state.polling);
});
onTheme(() => state.shown?.vectors && showMatrix());
let drawnWidth = 0;
new ResizeObserver(() => {
  const width = at("pictures").clientWidth;
  if (!state.shown?.vectors || width === drawnWidth || width === 0) return;
  drawnWidth = width;
  requestAnimationFrame(() => {
    if (!at("heat-frame").hidden) fitTable();
    drawMatrix();
    drawMap();
  });
}).observe(at("pictures"));

startTheme();
makeCharts();
showTabOfAddress();
countTexts();
connect();
