// The tokens of the texts, some texts at a time.

const TEXTS_AT_A_TIME = 20;
const MAX_TOKENS_SHOWN = 600;
const CONCURRENCY = 6; // requests to /tokenize at a time, a browser's number of connections

async function showTokens(result, signal) {
  at("tokens").replaceChildren();
  at("tokens-more").hidden = true;
  const specials = await callJson(`props?model=${encodeURIComponent(result.answeredBy)}`, null, signal);
  result.specials = [specials.bos_token, specials.eos_token].filter(Boolean);
  await addTokens(result, signal);
}

async function addTokens(result, signal) {
  const from = at("tokens").children.length;
  const to = Math.min(result.n, from + TEXTS_AT_A_TIME);
  const found = await readTokens(result, from, to, signal);
  at("tokens").append(...found.map((tokens, place) => tokensOf(result, from + place, tokens)));
  at("tokens-more").hidden = to === result.n;
  at("tokens-more").textContent =
    `Show ${Math.min(TEXTS_AT_A_TIME, result.n - to)} more of ${counted(result.n, "text")}`;
  return at("tokens").children[from];
}

// The focus goes to the first text that was not there before.
async function showMoreTokens() {
  try {
    const first = await addTokens(state.shown);
    first.tabIndex = -1;
    first.focus();
  } catch (error) {
    report(error);
  }
}

async function readTokens({ answeredBy, prefix, texts }, from, to, signal) {
  const found = [];
  let next = from;
  const work = async () => {
    while (next < to) {
      const index = next;
      next += 1;
      const body = { model: answeredBy, content: prefix + texts[index], add_special: true, with_pieces: true };
      found[index - from] = (await callJson("tokenize", body, signal)).tokens;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
  return found;
}

function tokensOf({ texts, truncated, model, specials, closest, cosines, n }, index, tokens) {
  const limit = model?.meta.max_input_tokens ?? Infinity;
  const about = make(
    "p",
    { class: "soft" },
    make("span", tokens.length > limit ? { class: "over" } : {}, counted(tokens.length, "token")),
  );
  const cut = truncated.find((one) => one.index === index);
  if (cut) about.append(`, ${cut.n_kept.toLocaleString("en")} of them used`);
  if (closest[index] >= 0)
    about.append(
      ` · closest to ${(closest[index] + 1).toLocaleString("en")} (${twoDigits(cosines[index * n + closest[index]])})`,
    );
  const chips = tokens
    .slice(0, MAX_TOKENS_SHOWN)
    .map((token, place) => chip(token, specials.includes(token.piece) && (place === 0 || place === tokens.length - 1)));
  const more = tokens.length - MAX_TOKENS_SHOWN;
  if (more > 0) chips.push(make("span", { class: "soft" }, `and ${more.toLocaleString("en")} more`));
  const title = make("h3", {}, `${(index + 1).toLocaleString("en")} `, make("bdi", {}, short(texts[index], 160)));
  return make(
    "div",
    { class: "text" },
    title,
    about,
    make("div", { class: "tokens", dir: directionOf(texts[index]) }, ...chips),
  );
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
    make("bdi", {}, text || "∅"),
    make("small", {}, String(id)),
  );
}
