// The form: available models, their options, and the request to send.

const chosen = () => state.models.find((model) => model.id === at("model").value);

function showModels(models) {
  const names = models.map((model) => model.id);
  const changed = names.join("\n") !== state.models.map((model) => model.id).join("\n");
  state.models = models;
  if (changed) {
    const before = at("model").value;
    at("model").replaceChildren(...models.map(optionOf));
    if (names.includes(before)) at("model").value = before;
    showChosen();
  }
  describeChosen();
  showPictureForm();
  showLoaded();
  showLoadedCount();
}

// Rerankers only score pairs, so they have no vectors to show.
function optionOf({ id, meta }) {
  if (meta.pooling !== "rank") return make("option", { value: id }, id);
  return make("option", { value: id, disabled: "" }, `${id} (reranker)`);
}

function describeChosen() {
  const model = chosen();
  if (!model) return;
  const { n_embd, pooling, max_input_tokens, ftype } = model.meta;
  const parts = [
    `${n_embd} dimensions`,
    `pooling ${pooling}`,
    `up to ${max_input_tokens} tokens`,
    ftype,
    model.status.value,
  ];
  at("about").textContent = parts.filter(Boolean).join(" · ");
}

function showChosen() {
  const meta = chosen()?.meta;
  const prompts = Object.keys(meta?.prompts ?? {});
  at("kind-row").hidden = prompts.length === 0;
  at("kind").replaceChildren(
    make("option", { value: "" }, "as written"),
    ...prompts.map((name) => make("option", { value: name }, name)),
  );
  showPrefix();
  const sizes = sizesOf(meta);
  at("size-row").hidden = sizes.length < 2;
  at("size").max = Math.max(sizes.length - 1, 0);
  at("size").value = at("size").max;
  showSize();
}

function showPrefix() {
  const prefix = chosen()?.meta.prompts?.[at("kind").value];
  at("prefix").textContent = prefix ? `Added before each text: “${prefix}”` : "No prompt is added.";
}

function sizesOf(meta) {
  if (!meta?.matryoshka?.length) return [];
  return [...new Set([...meta.matryoshka.filter((size) => size < meta.n_embd), meta.n_embd])].sort(
    (one, other) => one - other,
  );
}

function showSize() {
  const size = sizesOf(chosen()?.meta)[at("size").value] ?? "";
  at("size-now").textContent = size;
  at("size").setAttribute("aria-valuetext", `${size} dimensions`);
}

const writtenTexts = () => splitTexts(at("texts").value, at("blocks").checked);

function countTexts() {
  const n = writtenTexts().length;
  at("count").textContent =
    `${n} ${n === 1 ? "text" : "texts"}, ${at("blocks").checked ? "an empty line between them" : "one per line"}`;
}

function wanted() {
  const model = chosen();
  const size = sizesOf(model?.meta)[at("size").value];
  const kind = at("kind").value;
  const body = { model: model?.id, input: writtenTexts() };
  if (kind) body.prompt_name = kind;
  if (size && size !== model.meta.n_embd) body.dimensions = size;
  if (at("truncate").checked) body.truncate = true;
  return { model, body, prefix: (kind && model?.meta.prompts[kind]) || "" };
}
