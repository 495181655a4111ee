// /docs: search, copy buttons, "Try", the API key, and the theme. Must be the last script.

function copyButton(textOf) {
  const button = make("button", { type: "button", class: "small copy" }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(textOf())) ? "Copied" : "Not copied";
    setTimeout(() => {
      button.textContent = "Copy";
    }, 2000);
  });
  return button;
}

function addTry(place) {
  const section = place.closest("section");
  const routes = [...section.querySelectorAll("h3")].map((head) => {
    const [method, path] = routeOf(head).split(" ");
    return { method, path };
  });
  const form = make("form", { autocomplete: "off" });
  const name = make("span", { class: "seen-by-readers" }, ` ${routes[0].method} ${routes[0].path}`);
  const details = make("details", { class: "try" }, make("summary", {}, "Try", name), form);
  details.addEventListener("toggle", async () => {
    if (!details.open || form.childElementCount > 0) return;
    try {
      buildForm(form, routes, await readDescription());
    } catch (error) {
      form.replaceChildren();
      details.open = false;
      details.after(make("p", { class: "alert", role: "alert" }, error.message));
    }
  });
  place.replaceWith(details);
}

function showKeyForm(note = "") {
  at("key-form").hidden = false;
  at("forget").hidden = key === "";
  at("key-note").textContent = note || (key ? "A key is stored." : "");
}

function useKey(value) {
  key = stored(() => sessionStorage, KEY, value);
  at("key").value = "";
  described = null; // the names of models may be readable now
  showKeyForm(key ? "The key is stored." : "The key is forgotten.");
}

for (const code of document.querySelectorAll(".code")) code.append(copyButton(() => code.firstElementChild.textContent));
document.querySelectorAll("div.try").forEach(addTry);
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(at("key").value.trim());
});
at("forget").addEventListener("click", () => useKey(""));
if (at("key-needed")) showKeyForm();
startTheme();
startSearch();
