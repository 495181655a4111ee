// What a request took, and the request itself as a command.

const TEXTS_IN_COMMAND = 20;

function showNumbers(result) {
  const { n, nTokens, totalMs, rerankMs, spent, vectors } = result;
  const rows = [["texts", n.toLocaleString("en")]];
  if (vectors) {
    rows.unshift(["total", ms(totalMs)], ...(spent ? splitOf(totalMs, spent) : []));
    rows.push(["tokens", nTokens.toLocaleString("en")], ["dimensions", vectors[0].length.toLocaleString("en")]);
  }
  if (rerankMs !== undefined) rows.push(["reranking", ms(rerankMs)]);
  at("numbers").replaceChildren(
    ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
  at("notes").textContent = vectors ? notesOn(result).join(" ") : "";
  at("curl").textContent = commandOf(result);
  at("copied").textContent = "";
}

function notesOn({ answeredBy, asleep, spent, metered, prompt, prefix, truncated }) {
  const notes = [`Answered by ${isolated(answeredBy)}.`];
  if (asleep) notes.push("The time includes loading the model.");
  if (spent) notes.push(describeEngine(spent));
  else if (metered) notes.push("No breakdown of the time, because the server answered other requests meanwhile.");
  else notes.push("No breakdown of the time, because metrics are disabled.");
  if (prompt) notes.push(prompt.note ?? `Added before each text: “${isolated(prompt.text)}”.`);
  else if (prefix) notes.push("The server did not report which prompt it added.");
  return [...notes, ...truncationNotes(truncated)];
}

const MAX_NAMED = 5;

function truncationNotes(truncated) {
  const named = truncated.slice(0, MAX_NAMED).map(({ index, n_tokens, n_kept }) => {
    const sizes = `from ${n_tokens.toLocaleString("en")} to ${counted(n_kept, "token")}`;
    return `Text ${(index + 1).toLocaleString("en")} was truncated ${sizes}.`;
  });
  const more = truncated.length - MAX_NAMED;
  return more > 0 ? [...named, `${counted(more, "more text")} ${more === 1 ? "was" : "were"} truncated.`] : named;
}

// The parts of the total time; they add up to it.
const splitOf = (totalMs, { allMs, tokenizeMs }) => [
  ["network", ms(Math.max(0, totalMs - allMs))],
  ["tokenization", ms(tokenizeMs)],
  ["queue and computation", ms(Math.max(0, allMs - tokenizeMs))],
];

const describeEngine = ({ engineMs, nBatches }) =>
  nBatches === 1
    ? `The engine took ${ms(engineMs)} for one batch.`
    : `The engine took ${ms(engineMs)} for ${counted(nBatches, "batch", "batches")}, which may have run in parallel.`;

function commandOf({ common, texts, kind, vectors, reranker, query }) {
  const few = texts.slice(0, TEXTS_IN_COMMAND);
  const prompt = kind ? { prompt_name: kind } : {};
  const [path, body] = vectors
    ? [EMBEDDINGS, { ...common, input: few, ...prompt }]
    : ["v1/rerank", { model: reranker, query, documents: few }];
  const json = JSON.stringify(body).replaceAll("'", "'\\''");
  const authorization = key ? ' -H "Authorization: Bearer $KEY"' : "";
  const command = `curl ${new URL(path, location.href.split("#")[0])} -H 'Content-Type: application/json'${authorization} -d '${json}'`;
  return few.length < texts.length
    ? `# with the first ${TEXTS_IN_COMMAND} of ${counted(texts.length, "text")}\n${command}`
    : command;
}
