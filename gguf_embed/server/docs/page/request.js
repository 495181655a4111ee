// Requests for vectors and scores. Many texts are sent in several requests, one after another.

const TEXTS_AT_ONCE = 250;
const PAIRS_AT_ONCE = 50; // a reranker computes each pair anew

const EMBEDDINGS = "v1/embeddings";

// The vectors of all texts, and of the query if it is ranked by them: {vectors, queryVector, replies, totalMs, …}.
async function embed(asked, signal) {
  const { texts, common, kind, query, queryKind, by } = asked;
  const before = await counters(signal);
  const started = performance.now();
  const parts = await inParts(texts, TEXTS_AT_ONCE, signal, (input) => embedPart(common, input, kind, signal));
  const totalMs = performance.now() - started;
  const after = before && (await counters(signal));
  const vectors = parts.flatMap(([, reply]) => reply.vectors);
  const spent = before && spentOn(parts.length, texts.length, before, after);
  const queryVector = query && by !== "reranker" ? await embedQuery(common, query, queryKind, signal) : null;
  return { ...gathered(parts), vectors, queryVector, totalMs, metered: before !== null, spent };
}

async function embedPart(common, input, kind, signal) {
  const { data, ...reply } = await callJson(EMBEDDINGS, embedBody(common, input, kind), signal);
  return { ...reply, vectors: data.map((item) => decodeVector(item.embedding)) };
}

function embedBody(common, input, kind) {
  const prompt = kind ? { prompt_name: kind } : {};
  return { ...common, input, ...prompt, encoding_format: "base64" };
}

async function embedQuery(common, query, kind, signal) {
  try {
    return (await embedPart(common, [query], kind, signal)).vectors[0];
  } catch (error) {
    throw aboutQuery(error);
  }
}

function aboutQuery(error) {
  return isTooLong(error) ? Object.assign(error, { isQuery: true, index: undefined }) : error;
}

// What several replies say together; their indexes count from the first text.
function gathered(parts) {
  const replies = parts.map(([, reply]) => reply);
  return {
    answeredBy: replies[0].model,
    prompt: replies[0].prompt,
    nTokens: replies.reduce((sum, reply) => sum + reply.usage.prompt_tokens, 0),
    truncated: parts.flatMap(([from, reply]) =>
      (reply.truncated ?? []).map((cut) => ({ ...cut, index: cut.index + from })),
    ),
  };
}

// [[index of the first, reply], …]. The status shows how far it is.
async function inParts(texts, size, signal, ask) {
  const parts = [];
  for (let from = 0; from < texts.length; from += size) {
    if (from > 0) say(`Computing… ${from.toLocaleString("en")} of ${counted(texts.length, "text")}`);
    try {
      parts.push([from, await ask(texts.slice(from, from + size))]);
    } catch (error) {
      if (error.index !== undefined) error.index += from;
      error.isPart = from + size < texts.length;
      throw error;
    }
    signal.throwIfAborted();
  }
  return parts;
}

// The reranker's scores of all texts: {scores, scoredBy, rerankMs}.
async function rerank({ reranker, query, texts, common }, signal) {
  const started = performance.now();
  const truncate = common.truncate ? { truncate: true } : {};
  const parts = await inParts(texts, PAIRS_AT_ONCE, signal, (documents) =>
    callJson("v1/rerank", { model: reranker, query, documents, ...truncate }, signal),
  );
  const scores = new Float64Array(texts.length);
  for (const [from, { results }] of parts)
    for (const { index, relevance_score } of results) scores[from + index] = relevance_score;
  return { scores, scoredBy: parts[0][1].model, rerankMs: performance.now() - started };
}

// The time that the server spent on these requests; null if the counters include others.
function spentOn(nRequests, nTexts, before, after) {
  const more = (name) => difference(before, after, name);
  const route = '{route="/v1/embeddings"}';
  const counts = [more(`request_duration_seconds_count${route}`), more("compute_seconds_count")];
  if (counts.some((count) => count !== nRequests) || more("texts_total") !== nTexts) return null;
  return {
    allMs: more(`request_duration_seconds_sum${route}`) * 1000,
    tokenizeMs: more("tokenize_seconds_sum") * 1000,
    engineMs: more("batch_seconds_sum") * 1000,
    nBatches: more("batch_seconds_count"),
  };
}
