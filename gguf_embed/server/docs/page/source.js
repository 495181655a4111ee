// A text or Markdown file, whose chunks are the texts.

const MAX_FILE_BYTES = 5_000_000;
const MAX_TOKENIZED_CHARACTERS = 200_000; // in one request; the reply is many times as large
const MAX_TOKENIZED_TEXTS = 1_000;
const SPARE_TOKENS = 4; // a chunk may have a few more tokens than its sentences have one by one
let cutting = null;

async function takeFile(file) {
  if (!file) return;
  hideError();
  if (file.size > MAX_FILE_BYTES) {
    const limit = megabytes(MAX_FILE_BYTES);
    report(
      new Error(
        `${file.name} has ${megabytes(file.size)}; the page takes up to ${limit}. Larger ones are for gguf-embed ingest.`,
      ),
    );
    return;
  }
  const text = decoded(await file.arrayBuffer());
  if (text === null || text.trim() === "") {
    report(new Error(text === null ? `${file.name} is not a text in UTF-8.` : `${file.name} is empty.`));
    return;
  }
  const isMarkdown = /\.(md|markdown)$/i.test(file.name);
  state.file = { name: file.name, text: text.replace(/\r\n?/g, "\n"), isMarkdown, units: null, chunks: [] };
  at("file-name").textContent = file.name;
  at("chunk-by").value = isMarkdown ? "heading" : "paragraph";
  at("chunk-by").options[0].disabled = !isMarkdown;
  at("written").hidden = true;
  at("from-file").hidden = false;
  await cutFile();
}

// The text, or null if it is no UTF-8.
function decoded(bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

function removeFile() {
  cutting?.abort();
  state.file = null;
  at("compute").disabled = !canCompute();
  at("file").value = "";
  at("written").hidden = false;
  at("from-file").hidden = true;
  at("texts").focus();
}

// Cuts the file anew: after another size or kind, and with the tokens of another model.
async function cutFile() {
  const { file } = state;
  const model = chosen() ?? rerankers()[0];
  if (!file) return;
  if (!model) {
    at("chunk-note").textContent = "It is cut when there is a model, whose tokens are counted.";
    return;
  }
  cutting?.abort();
  const running = (cutting = new AbortController());
  at("chunk-note").textContent = "Cutting it into chunks…";
  file.isCutting = true;
  at("compute").disabled = true;
  try {
    const limit = await chunkLimit(model, running.signal);
    if (file.tokenizedBy !== model.id) await countUnits(file, model, running.signal);
    file.tokenizedBy = model.id;
    const units = file.units.flatMap((unit) =>
      unit.count > limit ? cutUnit(unit, file.text, unit.starts, limit) : [unit],
    );
    file.chunks = packed(units, file.text, at("chunk-by").value, limit);
    const nTokens = file.chunks.reduce((sum, chunk) => sum + chunk.count, 0);
    at("chunk-note").textContent =
      `${counted(file.chunks.length, "chunk")}, ${counted(nTokens, "token")}, at most ${limit.toLocaleString("en")} each`;
  } catch (error) {
    if (running !== cutting) return;
    file.chunks = [];
    at("chunk-note").textContent = "Not cut.";
    report(error);
  }
  if (running !== cutting) return;
  file.isCutting = false;
  at("compute").disabled = !canCompute();
}

// The tokens of a chunk: what was asked for, as far as the model, its special tokens and the prompt leave room.
async function chunkLimit(model, signal) {
  const body = { model: model.id, content: prefixOf("kind"), add_special: true };
  const around = (await callJson("tokenize", body, signal)).tokens.length;
  const room = model.meta.max_input_tokens - around - SPARE_TOKENS;
  const wish = Math.round(Number(at("chunk-size").value)) || 256;
  return Math.max(1, Math.min(Math.max(8, wish), room));
}

async function countUnits(file, model, signal) {
  const units = await inSlices(unitsOf(file.text, file.isMarkdown), signal);
  const texts = units.map(({ start, end }) => file.text.slice(start, end));
  const lengths = texts.map((text) => text.length);
  for (const [from, to] of batchesOf(lengths, MAX_TOKENIZED_CHARACTERS, MAX_TOKENIZED_TEXTS)) {
    const body = { model: model.id, inputs: texts.slice(from, to), add_special_tokens: false };
    const found = await callJson("tokenize", body, signal);
    found.forEach((tokens, index) =>
      Object.assign(units[from + index], { count: tokens.length, starts: startsOf(tokens, texts[from + index]) }),
    );
    at("chunk-note").textContent =
      `Counting tokens: ${to.toLocaleString("en")} of ${counted(units.length, "sentence")}…`;
  }
  file.units = units;
}

// Where each token starts, in code units; the server counts code points. Evenly spread if it does not know.
function startsOf(tokens, text) {
  if (tokens.some(({ start }) => start === null))
    return tokens.map((_, index) => Math.floor((index * text.length) / tokens.length));
  const places = [0];
  for (const letter of text) places.push(places.at(-1) + letter.length);
  return tokens.map(({ start }) => places[start]);
}
