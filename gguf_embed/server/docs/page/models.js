// The loaded models, and unloading them.

function showLoaded() {
  const loaded = state.models.filter((model) => model.status.value !== "unloaded");
  const rows = JSON.stringify(loaded.map((model) => [model.id, model.status.value]));
  if (rows === at("loaded").dataset.rows) return; // keeps the focus on a button
  at("loaded").dataset.rows = rows;
  at("loaded").replaceChildren(
    ...loaded.map((model) => {
      const button = make("button", { type: "button", class: "small", "aria-label": `Unload ${model.id}` }, "Unload");
      button.disabled = model.status.value !== "loaded";
      button.addEventListener("click", () => unload(model.id));
      return make(
        "li",
        {},
        make("span", {}, model.status.value === "loaded" ? model.id : `${model.id}, ${model.status.value}`),
        button,
      );
    }),
  );
}

async function unload(name) {
  try {
    await callJson("api/embed", { model: name, keep_alive: 0 });
    say(`Unloaded ${name}. The next request loads it again.`);
    await poll();
  } catch (error) {
    report(error);
  }
}
