// The two tabs of the page. The address names the one that is open, so that it can be linked to: #server.

const TABS = ["try", "server"];

const openTab = () => TABS.find((name) => !at(name).hidden);

function showTab(name) {
  for (const one of TABS) {
    at(one).hidden = one !== name;
    at(`${one}-tab`).setAttribute("aria-selected", String(one === name));
    at(`${one}-tab`).tabIndex = one === name ? 0 : -1;
  }
  at("skip").href = name === "try" ? "#texts" : "#server";
  at("skip").textContent = name === "try" ? "Skip to the texts" : "Skip to the server";
  if (name === "server" && state.models.length > 0) poll(); // at once, and not only in two seconds
}

function chooseTab(name) {
  history.replaceState(null, "", name === TABS[0] ? location.pathname + location.search : `#${name}`);
  showTab(name);
}

// The address decides; one that names no tab, such as #texts, is in the first.
const showTabOfAddress = () => showTab(TABS.find((name) => `#${name}` === location.hash) ?? TABS[0]);

// Arrow keys, Home and End move between tabs and open them (ARIA's "tabs" pattern: a single tab stop).
function moveInTabs(event) {
  const now = TABS.indexOf(openTab());
  const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: TABS.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const name = TABS[(next + TABS.length) % TABS.length];
  chooseTab(name);
  at(`${name}-tab`).focus();
}

for (const name of TABS) {
  at(`${name}-tab`).addEventListener("click", () => chooseTab(name));
  at(`${name}-tab`).addEventListener("keydown", moveInTabs);
}
window.addEventListener("hashchange", showTabOfAddress);
