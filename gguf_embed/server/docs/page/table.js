// The matrix of few texts: a table with its numbers.

const LABEL_WIDE = 112; // pixels, as page.css has them
const CELL_WIDE = 41;

function fillTable() {
  const { texts, order } = state.shown;
  const names = order.map((index) => String(index + 1));
  const head = make(
    "tr",
    {},
    make("td"),
    ...order.map((index, place) => make("th", { scope: "col", title: short(texts[index], 300) }, names[place])),
  );
  const rows = order.map((index, row) => {
    const label = make("span", {}, `${names[row]} `, make("bdi", {}, short(texts[index], 80)));
    return make(
      "tr",
      {},
      make("th", { scope: "row", title: short(texts[index], 300) }, label),
      ...order.map((other, column) => cellOf(index, other, row, column)),
    );
  });
  at("heat").replaceChildren(at("heat").caption, make("thead", {}, head), make("tbody", {}, ...rows));
  cellAt(0, 0).tabIndex = 0;
  fitTable();
}

function cellOf(one, other, row, column) {
  const { cosines, low, n } = state.shown;
  const cosine = cosines[one * n + other];
  const cell = make("td", { "data-row": row, "data-column": column, tabindex: "-1" }, twoDigits(cosine));
  const color = mix(...heatColors(), shareOfCosine(cosine, low));
  cell.style.background = `rgb(${color})`;
  cell.style.color = inkOn(color);
  return cell;
}

// Hides the numbers in cells that are too narrow; pointing at a cell shows its number.
function fitTable() {
  at("heat").classList.toggle("dense", (at("heat-frame").clientWidth - LABEL_WIDE) / state.shown.n < CELL_WIDE);
  showEdges();
}

// Fades the edges where there is more to scroll to.
function showEdges() {
  const { scrollLeft, scrollTop, clientWidth, clientHeight, scrollWidth, scrollHeight, classList } = at("heat-frame");
  classList.toggle("more-right", scrollLeft + clientWidth < scrollWidth - 1);
  classList.toggle("more-below", scrollTop + clientHeight < scrollHeight - 1);
}

const cellAt = (row, column) => at("heat").querySelector(`[data-row="${row}"][data-column="${column}"]`);

// Arrow keys move from cell to cell, Home and End to the ends of a row (ARIA's "grid" pattern: a single tab stop).
function moveInTable(event) {
  const { row, column } = event.target.dataset;
  if (row === undefined) return;
  const next = steppedTo(event.key, Number(row), Number(column), state.shown.n - 1);
  if (next === null) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  const cell = cellAt(...next);
  cell.tabIndex = 0;
  cell.focus();
}

// The cell that a key leads to; null if it leads nowhere.
function steppedTo(key, row, column, last) {
  const steps = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
    Home: [0, -last],
    End: [0, last],
  };
  if (!(key in steps)) return null;
  const clamp = (index) => Math.min(last, Math.max(0, index));
  return [clamp(row + steps[key][0]), clamp(column + steps[key][1])];
}

function readTable(event) {
  const { row, column } = event.target.dataset ?? {};
  if (row === undefined) return;
  at("readout").textContent = pairWords(state.shown.order[row], state.shown.order[column]);
}
