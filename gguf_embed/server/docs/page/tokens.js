// The timings of a request, and its tokens.

const MAX_SHOWN = 100; // texts in the heat map, the projection and the list of tokens
const MAX_TOKENS_SHOWN = 600;
const CONCURRENCY = 6; // requests to /tokenize at a time, a browser's number of connections

async function readTokens(result, signal) {
  const model = result.reply.model;
  const specials = await callJson(`props?model=${encodeURIComponent(model)}`, null, signal);
  const texts = result.body.input.slice(0, MAX_SHOWN);
  const found = [];
  let next = 0;
  const work = async () => {
    while (next < texts.length) {
      const index = next;
      next += 1;
      const body = { model, content: result.prefix + texts[index], add_special: true, with_pieces: true };
      found[index] = (await callJson("tokenize", body, signal)).tokens;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
  return { found, specials: [specials.bos_token, specials.eos_token].filter(Boolean) };
}

const ms = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en")) + " ms";

function showNumbers({ body, reply, totalMs, metered, spent, vectors, asleep, prefix }) {
  const rows = [
    ["total", ms(totalMs)],
    ...(spent ? splitOf(totalMs, spent) : []),
    ["texts", body.input.length],
    ["tokens", reply.usage.prompt_tokens],
    ["dimensions", vectors[0].length],
  ];
  at("numbers").replaceChildren(
    ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value.toLocaleString("en")))),
  );
  const notes = [`Answered by ${reply.model}.`];
  if (asleep) notes.push("The time includes loading the model.");
  if (spent) notes.push(describeEngine(spent));
  else if (metered) notes.push("No breakdown of the time, because the server answered other requests meanwhile.");
  else notes.push("No breakdown of the time, because metrics are disabled.");
  if (reply.prompt) notes.push(reply.prompt.note ?? `Added before each text: “${reply.prompt.text}”.`);
  else if (prefix) notes.push("The server did not report which prompt it added.");
  for (const cut of reply.truncated ?? [])
    notes.push(`Text ${cut.index + 1} was truncated from ${cut.n_tokens} to ${cut.n_kept} tokens.`);
  if (body.input.length > MAX_SHOWN) notes.push(`Only the first ${MAX_SHOWN} of ${body.input.length} texts are shown.`);
  at("notes").textContent = notes.join(" ");
  const json = JSON.stringify(body).replaceAll("'", "'\\''");
  const authorization = key ? ' -H "Authorization: Bearer $KEY"' : "";
  const url = new URL("v1/embeddings", location.href);
  at("curl").textContent = `curl ${url} -H 'Content-Type: application/json'${authorization} -d '${json}'`;
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
    : `The engine took ${ms(engineMs)} for ${nBatches} batches, which may have run in parallel.`;

function showTokens({ body, model, cosines, reply }, { found, specials }) {
  const cuts = new Map((reply.truncated ?? []).map((cut) => [cut.index, cut]));
  at("tokens").replaceChildren(
    ...found.map((tokens, index) => {
      const limit = model?.meta.max_input_tokens ?? Infinity;
      const count = make("span", tokens.length > limit ? { class: "over" } : {}, counted(tokens.length, "token"));
      const about = make("p", { class: "soft" }, count);
      if (cuts.has(index)) about.append(`, ${cuts.get(index).n_kept} of them used`);
      const closest = closestTo(cosines, index);
      if (closest >= 0) about.append(` · closest to ${closest + 1} (${twoDigits(cosines[index][closest])})`);
      const chips = tokens
        .slice(0, MAX_TOKENS_SHOWN)
        .map((token, place) =>
          chip(token, specials.includes(token.piece) && (place === 0 || place === tokens.length - 1)),
        );
      const more = tokens.length - MAX_TOKENS_SHOWN;
      if (more > 0) chips.push(make("span", { class: "soft" }, `and ${more} more`));
      return make(
        "div",
        { class: "text" },
        make("h3", {}, `${index + 1} ${short(body.input[index], 160)}`),
        about,
        make("div", { class: "tokens" }, ...chips),
      );
    }),
  );
}

function closestTo(cosines, index) {
  let best = -1;
  cosines[index].forEach((cosine, other) => {
    if (other !== index && (best < 0 || cosine > cosines[index][best])) best = other;
  });
  return best;
}

// A piece is a string, or its bytes if it is not valid UTF-8 on its own.
function chip({ id, piece }, special) {
  const text =
    typeof piece === "string"
      ? piece.replaceAll("\n", "⏎").replaceAll("\t", "⇥")
      : piece.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return make(
    "span",
    { class: special ? "token special" : "token", title: `id ${id}` },
    text || "∅",
    make("small", {}, String(id)),
  );
}
