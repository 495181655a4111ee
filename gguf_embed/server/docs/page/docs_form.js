// The form of "Try", made from /openapi.json: the route, its parameters and its body.

const EXAMPLE_LINE = '{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"input": "hello"}}';

let described = null; // a promise of {api, models}

function readDescription() {
  described ??= Promise.all([callJson("openapi.json"), readModels()]).then(([api, models]) => ({ api, models }));
  described.catch(() => {
    described = null; // the next form asks again
  });
  return described;
}

// Names of models; none if the server does not tell without a key.
async function readModels() {
  try {
    return (await callJson("v1/models")).data.flatMap(({ id, aliases }) => [id, ...aliases]);
  } catch {
    return [];
  }
}

// A body that names a model that this server lacks gets the first one that it has.
function withKnownModel(value, models) {
  const isKnown = models.some((name) => name.toLowerCase() === String(value.model).toLowerCase());
  return typeof value.model !== "string" || models.length === 0 || isKnown ? value : { ...value, model: models[0] };
}

const isForm = (content) => "multipart/form-data" in content;

// {api, models} and a route → {operation, schemas, examples: [{summary, text}]}
function describeRoute({ api, models }, { method, path }) {
  const operation = api.paths[path][method.toLowerCase()];
  const { schemas } = api.components;
  const content = operation.requestBody?.content ?? {};
  const json = content["application/json"];
  const given = Object.values(json?.examples ?? {});
  const examples = given.length || !json ? given : [{ summary: "Required fields", value: emptyBody(json.schema, schemas) }];
  return {
    operation,
    models,
    form: isForm(content) ? schemaOf(content["multipart/form-data"].schema, schemas) : null,
    examples: examples.map(({ summary, value }) => ({
      summary,
      text: JSON.stringify(withKnownModel(value, models), null, 2),
    })),
  };
}

const schemaOf = (schema, schemas) => (schema.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema);

function emptyBody(schema, schemas) {
  const { required = [], properties = {} } = schemaOf(schema, schemas);
  return Object.fromEntries(required.map((name) => [name, properties[name]?.enum?.[0] ?? ""]));
}

// The controls of a route, in the order in which they are filled in.
function controlsOf({ operation, models, form, examples }) {
  const controls = (operation.parameters ?? []).map(({ name, in: where, schema, required = false }) =>
    control(where, name, schema, { required, value: where === "path" && name === "model" ? (models[0] ?? "") : "" }),
  );
  for (const [name, schema] of Object.entries(form?.properties ?? {}))
    controls.push(control("form", name, schema, { required: form.required.includes(name), value: "" }));
  if (examples.length > 0) controls.push(...bodyControls(examples));
  return controls;
}

function control(where, name, schema, { required, value }) {
  const attributes = { "data-in": where, name, ...(required ? { required: "" } : {}) };
  let input;
  if (schema.enum) {
    const choices = required ? schema.enum : ["", ...schema.enum];
    input = make("select", attributes, ...choices.map((choice) => make("option", {}, choice)));
  } else if (where === "form" && name === "file") {
    input = make("textarea", { ...attributes, spellcheck: "false", rows: 3 });
    input.value = EXAMPLE_LINE;
  } else {
    input = make("input", { ...attributes, type: "text", autocomplete: "off", spellcheck: "false" });
    input.value = value;
  }
  return make("label", {}, `${name}${required ? "" : " (optional)"}`, input);
}

function bodyControls(examples) {
  const body = make("textarea", { "data-in": "body", name: "body", spellcheck: "false" });
  const use = (index) => {
    body.value = examples[index].text;
    body.rows = Math.min(14, body.value.split("\n").length + 1);
  };
  use(0);
  const label = make("label", {}, "Body (JSON)", body);
  if (examples.length === 1) return [label];
  const choice = make("select", {}, ...examples.map(({ summary }, index) => make("option", { value: index }, summary)));
  choice.addEventListener("change", () => use(choice.value));
  return [make("label", {}, "Example", choice), label];
}

// What the controls ask for: {method, url, headers, body}, as fetch takes them.
function requestOf(controls, { method, path }) {
  const inputs = [...controls.querySelectorAll("[data-in]")];
  const valuesIn = (where) => inputs.filter((input) => input.dataset.in === where && input.value !== "");
  const filled = valuesIn("path").reduce(
    (whole, { name, value }) => whole.replace(`{${name}}`, encodeURIComponent(value)),
    path,
  );
  const query = new URLSearchParams(valuesIn("query").map(({ name, value }) => [name, value])).toString();
  const url = `.${filled}${query && `?${query}`}`;
  const [json] = valuesIn("body");
  if (json) return { method, url, headers: { "Content-Type": "application/json" }, body: json.value };
  const parts = valuesIn("form");
  if (parts.length === 0) return { method, url, headers: {} };
  const body = new FormData();
  for (const { name, value } of parts)
    if (name === "file") body.append(name, new Blob([value]), "requests.jsonl");
    else body.append(name, value);
  return { method, url, headers: {}, body };
}
