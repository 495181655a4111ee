// The form: available models, their options, and what it asks for.

const READY = "Ready.";
const NO_MODEL = "There is no model to compute with.";
const POOLINGS = ["mean", "cls", "last"];
const SMALL_RERANKER = "jina-reranker-v1-tiny-en";

const isReranker = (model) => model.meta.pooling === "rank";
const isSparseOnly = (model) => !model.capabilities.includes("embedding");
const hasVectors = (model) => !isReranker(model) && !isSparseOnly(model);
const chosen = () => state.models.find((model) => model.id === at("model").value && hasVectors(model));
const rerankers = () => state.models.filter((model) => model.capabilities.includes("rerank"));
const canCompute = () => !state.locked && !state.file?.isCutting && (chosen() !== undefined || rerankers().length > 0);

function showModels(models) {
  const names = models.map((model) => model.id).join("\n");
  const changed = state.named !== names;
  Object.assign(state, { models, named: names });
  if (changed) {
    keepChoice("model", models.length ? models.map(optionOf) : [make("option", { value: "" }, "none")]);
    keepChoice(
      "reranker",
      rerankers().map(({ id }) => make("option", { value: id }, id)),
    );
    showRerankers();
    showChosen();
    if (models.length === 0) at("manage").open = true;
  }
  describeChosen();
  showPictureForm();
  showLoaded();
  showLoadedCount();
  at("compute").disabled = !canCompute();
  if (at("status").textContent === NO_MODEL && canCompute()) say(READY);
}

// Other options in a select; what was chosen stays chosen if it is still there.
function keepChoice(id, options) {
  const before = at(id).value;
  at(id).replaceChildren(...options);
  if (options.some((option) => option.value === before)) at(id).value = before;
}

// Rerankers only score pairs, and the page compares no sparse vectors.
function optionOf(model) {
  if (hasVectors(model)) return make("option", { value: model.id }, model.id);
  const why = isReranker(model) ? "reranker" : "sparse vectors only";
  return make("option", { value: model.id, disabled: "" }, `${model.id} (${why})`);
}

function withoutVectors() {
  if (state.models.length === 0) {
    return "No model is served. Pull one below, put a GGUF into the folder of --models-dir if the server has one, or restart it with -m FILE.";
  }
  return state.models.every(isReranker)
    ? "Only rerankers are served: texts are ranked, but have no vectors."
    : "No served model gives dense vectors, which this page compares. Sparse vectors are for the API.";
}

function describeChosen() {
  const model = chosen();
  if (!model) {
    at("about").textContent = withoutVectors();
    return;
  }
  const { n_embd, pooling, max_input_tokens, ftype } = model.meta;
  const parts = [
    counted(n_embd, "dimension"),
    `pooling ${pooling}`,
    `up to ${counted(max_input_tokens, "token")}`,
    ftype,
    model.status.value,
  ];
  at("about").textContent = parts.filter(Boolean).join(" · ");
}

// Which ways to rank there are: with a reranker only if one is served.
function showRerankers() {
  const found = rerankers();
  for (const option of at("rank-by").options) {
    const needsReranker = option.value !== "embedding";
    option.disabled = needsReranker ? found.length === 0 : chosen() === undefined;
    if (option.value === "both" && !chosen()) option.disabled = true;
  }
  if (at("rank-by").selectedOptions[0]?.disabled !== false) {
    at("rank-by").value = [...at("rank-by").options].find((option) => !option.disabled)?.value ?? "embedding";
  }
  at("reranker-row").hidden = found.length < 2 || at("rank-by").value === "embedding";
  at("rank-note").replaceChildren();
  if (found.length > 0 || state.models.length === 0) return;
  const command = make("code", {}, `gguf-embed pull ${SMALL_RERANKER}`);
  at("rank-note").append("No reranker is served. To get one: ", command, ", or pull it above.");
}

function showChosen() {
  const meta = chosen()?.meta;
  const names = Object.keys(meta?.prompts ?? {});
  const usual = promptsFor(meta?.prompts);
  at("kind-row").hidden = names.length === 0;
  for (const [id, name] of [
    ["kind", usual.texts],
    ["query-kind", usual.query],
  ]) {
    at(id).replaceChildren(
      make("option", { value: "" }, "none"),
      ...names.map((one) => make("option", { value: one }, one)),
    );
    at(id).value = name;
  }
  showPrefix();
  // a model without pooling gives one vector per token, which have no place here
  const own =
    meta?.pooling === "none" ? [] : [make("option", { value: "" }, `the model's own (${meta?.pooling ?? "–"})`)];
  at("pooling").replaceChildren(
    ...own,
    ...POOLINGS.filter((name) => name !== meta?.pooling).map((name) => make("option", { value: name }, name)),
  );
  const sizes = sizesOf(meta);
  at("size-row").hidden = sizes.length < 2;
  at("size").max = Math.max(sizes.length - 1, 0);
  at("size").value = at("size").max;
  showSize();
}

const prefixOf = (id) => chosen()?.meta.prompts?.[at(id).value] ?? "";

function showPrefix() {
  const added = [
    ["the query", prefixOf("query-kind")],
    ["each text", prefixOf("kind")],
  ].filter(([, prefix]) => prefix);
  const sentences = added.map(([what, prefix]) => `before ${what}: “${isolated(prefix)}”`);
  at("prefix").textContent = sentences.length ? `Added ${sentences.join("; ")}.` : "";
}

function sizesOf(meta) {
  if (!meta?.matryoshka?.length) return [];
  return [...new Set([...meta.matryoshka.filter((size) => size < meta.n_embd), meta.n_embd])].sort(
    (one, other) => one - other,
  );
}

function showSize() {
  const size = sizesOf(chosen()?.meta)[at("size").value] ?? "";
  at("size-now").textContent = size.toLocaleString("en");
  at("size").setAttribute("aria-valuetext", `${size} dimensions`);
}

const writtenTexts = () => splitTexts(at("texts").value, at("blocks").checked);

function countTexts() {
  const separated = at("blocks").checked ? "an empty line between them" : "one per line";
  at("count").textContent = `${counted(writtenTexts().length, "text")}, ${separated}`;
}

// Everything that the form asks for. `common` are the fields of each request for vectors.
function wanted() {
  const model = chosen();
  const size = sizesOf(model?.meta)[at("size").value];
  const common = { model: model?.id };
  if (size && size !== model.meta.n_embd) common.dimensions = size;
  if (at("pooling").value) common.pooling = at("pooling").value;
  if (at("truncate").checked) common.truncate = true;
  const query = at("query").value.trim();
  const by = at("rank-by").value;
  return {
    model,
    common,
    query,
    by,
    chunks: state.file?.chunks ?? null,
    texts: state.file ? state.file.chunks.map((chunk) => chunk.text) : writtenTexts(),
    kind: at("kind").value,
    queryKind: at("query-kind").value,
    prefix: prefixOf("kind"),
    reranker: query && by !== "embedding" ? at("reranker").value : "",
  };
}
