// From the form to the results.

const MAX_TEXTS = 5_000; // all pairs of them take 100 MB

async function compute() {
  if (!canCompute() || at("compute").disabled) return;
  const asked = wanted();
  const problem = problemOf(asked);
  if (problem) {
    showAge(true);
    report(new Error(problem));
    if (!state.file) at("texts").focus();
    return;
  }
  state.running?.abort();
  const running = (state.running = new AbortController());
  hideError();
  at("cancel").hidden = false;
  asked.asleep = asked.model !== undefined && asked.model.status.value !== "loaded";
  say(asked.asleep ? `Loading ${asked.model.id}, then computing…` : "Computing…");
  let result = null;
  try {
    result = await resultOf(asked, running.signal);
    await show(result, running.signal);
  } catch (error) {
    if (running !== state.running) return;
    showAge(result === null); // a part of the new results is shown already, if there are any
    report(error, asked.texts);
  } finally {
    if (running === state.running) {
      at("cancel").hidden = true;
      state.running = null;
    }
  }
}

function problemOf({ texts, model, query }) {
  if (texts.length === 0) return state.file ? "The file has no chunks." : "Enter at least one text.";
  if (texts.length > MAX_TEXTS) {
    return `These are ${counted(texts.length, "text")}; the page takes up to ${MAX_TEXTS.toLocaleString("en")}. More are for the API, or for gguf-embed ingest.`;
  }
  return !model && !query ? "Enter a query: a reranker needs one." : "";
}

async function resultOf(asked, signal) {
  const embedded = asked.model ? await embed(asked, signal) : {};
  const reranked = asked.reranker
    ? await rerank(asked, signal).catch((error) => Promise.reject(fromReranker(error, asked)))
    : {};
  return { ...asked, ...embedded, ...reranked, n: asked.texts.length };
}

function fromReranker(error, { reranker }) {
  if (isTooLong(error)) error.isPair = true;
  else if (error instanceof Refused) error.message = `${reranker}: ${error.message}`;
  return error;
}

// Marks the results as those of an earlier request, or removes the mark.
function showAge(old) {
  at("old").hidden = !old;
  at("results").classList.toggle("old", old);
}

// What is quick first. The pairs of many texts take a moment, in which the page can be used but for the old pictures.
async function show(result, signal) {
  state.shown = null;
  at("pictures").classList.add("waiting");
  at("intro").hidden = true;
  at("results").hidden = false;
  showAge(false);
  showRanking(result);
  showNumbers(result);
  for (const id of ["pictures", "tokens-card", "downloads"]) at(id).hidden = !result.vectors;
  if (result.vectors) {
    say("Comparing the texts…");
    await comparePairs(result, signal);
    at("pictures").classList.remove("waiting");
    await showMatrix();
    showMap();
    say("Loading the tokens…");
    await showTokens(result, signal);
  } else {
    state.shown = result;
  }
  say(doneWords(result));
}

async function comparePairs(result, signal) {
  const { vectors, n } = result;
  result.cosines = await inSlices(cosinesOf(vectors), signal);
  result.closest = await inSlices(closestOf(result.cosines, n), signal);
  result.low = await inSlices(lowestOf(result.cosines, n), signal);
  result.clustered = await inSlices(clusterOrder(result.cosines, n), signal);
  result.projection = n < 3 ? null : await inSlices(project(vectors), signal);
  state.shown = result;
}

function doneWords({ n, nTokens, totalMs, rerankMs }) {
  const parts = [counted(n, "text")];
  if (nTokens !== undefined) parts.push(counted(nTokens, "token"), ms(totalMs));
  if (rerankMs !== undefined) parts.push(`reranked in ${ms(rerankMs)}`);
  return `Done: ${parts.join(", ")}.`;
}
