// The similarity of all pairs: a table with numbers for few texts, a canvas for many.

const HEAT = {
  light: [
    [243, 245, 248],
    [13, 100, 120],
  ],
  dark: [
    [34, 42, 52],
    [98, 208, 228],
  ],
};
const MANY = 24; // above this number of texts: a canvas, and no labels in the projection
const HINT = "Cosine similarity of each pair. Point at a cell, or use Tab and the arrow keys, to see its texts.";

const isDark = () =>
  getComputedStyle(document.documentElement).colorScheme === "dark" ||
  (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);

const heatColors = () => HEAT[isDark() ? "dark" : "light"];

// Which text is in which row, from the top.
const rowOrder = ({ clustered, n }) => (at("sort").checked ? clustered : [...Array(n).keys()]);

async function showMatrix() {
  const { n, low } = state.shown;
  state.shown.order = rowOrder(state.shown);
  at("heat-frame").hidden = n > MANY;
  at("matrix-frame").hidden = n <= MANY;
  at("sort-box").hidden = n < 3;
  const [cold, warm] = heatColors();
  at("low").textContent = twoDigits(low);
  at("high").textContent = "1.00";
  at("ramp").style.background = `linear-gradient(to right, rgb(${cold}), rgb(${warm}))`;
  at("readout").textContent = HINT;
  if (n > MANY) await paintMatrix();
  else fillTable();
}

const shareOfCosine = (cosine, low) => Math.min(1, Math.max(0, (cosine - low) / (1 - low)));

// What the pair of two texts is, in words.
function pairWords(one, other) {
  const { cosines, texts, n } = state.shown;
  const name = (index) => `${(index + 1).toLocaleString("en")} ${quoted(texts[index], 120)}`;
  return `${cosines[one * n + other].toFixed(4)}: ${name(one)} and ${name(other)}`;
}
