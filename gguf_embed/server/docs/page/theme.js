// The theme: as the system's, light or dark. All pages of this server share the choice.

const THEMES = ["", "light", "dark"];
const repaints = []; // what has colors of its own, such as charts, draws itself again

const onTheme = (repaint) => repaints.push(repaint);
const repaintAll = () => repaints.forEach((repaint) => repaint());

function setTheme(name) {
  stored(() => localStorage, THEME, name);
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  at("theme").textContent = `Theme: ${name || "auto"}`;
  repaintAll();
}

function startTheme() {
  const chosen = stored(() => localStorage, THEME);
  setTheme(THEMES.includes(chosen) ? chosen : "");
  at("theme").hidden = false;
  at("theme").addEventListener("click", () =>
    setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length]),
  );
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaintAll);
}
