// Search: routes, fields, errors and schemas, read from the page itself.

const MAX_FOUND = 40;
const MAX_PLACES = 4;
const KINDS = ["route", "field", "error", "schema"];

const plain = (element) => element?.textContent.replace(/\s+/g, " ").trim() ?? "";
const routeOf = (head) => `${plain(head.firstElementChild)} ${plain(head.lastElementChild)}`; // "POST /v1/embeddings"

// Entries {kind, name, text, places: [{label, element}]}. What has the same name and meaning is one entry.
function readIndex() {
  const entries = new Map();
  const add = (kind, name, text, label, element) => {
    const same = [kind, name, text].join("\n");
    if (!entries.has(same)) entries.set(same, { kind, name, text, places: [] });
    entries.get(same).places.push({ label, element });
  };
  const addFields = (element, label) => {
    for (const row of element.querySelectorAll("tbody tr")) {
      const [name, type, meaning] = [...row.cells].map(plain);
      add("field", name, `${type}. ${meaning}`, row.closest("details.reply") ? `reply of ${label}` : label, row);
    }
  };
  for (const section of document.querySelectorAll("#content section[id]:not(#errors)")) {
    const heads = [...section.querySelectorAll("h3")];
    const label = routeOf(heads[0]);
    for (const head of heads) add("route", routeOf(head), plain(section.querySelector("p")), "", head);
    addFields(section, label);
    for (const error of section.querySelectorAll(".error")) add("error", plain(error), "", label, error);
  }
  for (const row of document.querySelectorAll("#errors tbody tr")) {
    const [kind, ...about] = [...row.cells].map(plain);
    add("error", kind, about.join(". "), "", row);
  }
  for (const schema of document.querySelectorAll("details.schema")) {
    const name = plain(schema.firstElementChild);
    add("schema", name, plain(schema.querySelector("p")), "", schema);
    addFields(schema, name);
  }
  return [...entries.values()];
}

// The lower, the better: the name itself, its beginning, a part of it, words of the description. Null: not found.
function rankOf({ name, text }, words) {
  const low = name.toLowerCase();
  const all = `${low} ${text.toLowerCase()}`;
  if (!words.every((word) => all.includes(word))) return null;
  if (low === words.join(" ")) return 0;
  if (low.startsWith(words[0])) return 1;
  return words.every((word) => low.includes(word)) ? 2 : 3;
}

function search(index, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return index
    .map((entry) => ({ entry, rank: rankOf(entry, words) }))
    .filter(({ rank }) => rank !== null)
    .sort(
      (one, other) => one.rank - other.rank || KINDS.indexOf(one.entry.kind) - KINDS.indexOf(other.entry.kind),
    )
    .map(({ entry }) => entry);
}

function showFound(index) {
  const query = at("find").value.trim();
  const found = query ? search(index, query) : [];
  at("contents").hidden = query !== "";
  at("found").hidden = found.length === 0;
  at("found").replaceChildren(...found.slice(0, MAX_FOUND).map(resultOf));
  at("found-note").textContent = query ? noteOf(query, found.length) : "";
  at("found").parentElement.scrollTop = 0;
  if (query && at("found-note").getBoundingClientRect().bottom < at("find").getBoundingClientRect().bottom)
    window.scrollTo(0, 0); // on a narrow screen the results are above what is read
}

function noteOf(query, n) {
  if (n === 0) return `Nothing matches “${query}”. Try a part of a word, such as “dim” or “429”.`;
  const more = n > MAX_FOUND ? `, of which the first ${MAX_FOUND} are shown` : "";
  return `${counted(n, "result")} for “${query}”${more}`;
}

function resultOf({ kind, name, text, places }) {
  const [first, ...others] = places;
  const link = linkTo(first.element, make("span", { class: "kind" }, kind), " ", make("code", {}, name));
  const item = make("li", {}, link);
  if (text && text !== ". ") item.append(make("p", { class: "hint" }, text));
  if (first.label) {
    const where = make("p", { class: "hint places" }, "in ", linkTo(first.element, first.label));
    for (const { label, element } of others.slice(0, MAX_PLACES - 1)) where.append(", ", linkTo(element, label));
    if (places.length > MAX_PLACES) where.append(` and ${places.length - MAX_PLACES} more`);
    item.append(where);
  }
  return item;
}

function linkTo(element, ...children) {
  const link = make("a", { href: `#${element.closest("[id]").id}` }, ...children);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", link.hash);
    goTo(element);
  });
  return link;
}

// Opens what hides the element, marks it, and gives it the focus.
function goTo(element) {
  for (let around = element; around; around = around.parentElement) if (around.tagName === "DETAILS") around.open = true;
  document.querySelector(".arrived")?.classList.remove("arrived");
  element.classList.add("arrived");
  element.tabIndex = -1;
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: element.tagName === "TR" ? "center" : "start" });
}

function startSearch() {
  let index = null;
  at("find-form").hidden = false;
  at("find").addEventListener("input", () => showFound((index ??= readIndex())));
  at("find-form").addEventListener("submit", (event) => {
    event.preventDefault();
    at("found").querySelector("a")?.click();
  });
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest("input, textarea, select");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || writing) return;
    event.preventDefault();
    at("find").select();
    at("find").focus();
  });
  const openTarget = () => {
    const target = location.hash && at(decodeURIComponent(location.hash.slice(1)));
    if (target?.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", openTarget);
  openTarget();
}
