// The matrix of many texts: a canvas with a pixel per pair, which can be zoomed.

const MATRIX_ZOOM = 64;
const picked = { row: 0, column: 0, isOn: false };
const ROWS_AT_ONCE = 50;
let painted = null; // a pixel per pair, in the order that is shown
let painting = null;

// Paints in slices; another call ends this one.
async function paintMatrix() {
  painting?.abort();
  const running = (painting = new AbortController());
  painted = null;
  const canvas = new OffscreenCanvas(state.shown.n, state.shown.n);
  try {
    await inSlices(paintRows(canvas.getContext("2d"), state.shown, inksOf(heatColors())), running.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    throw error;
  }
  painted = canvas;
  Object.assign(picked, { row: 0, column: 0, isOn: false });
  matrixZoom.reset();
}

// 256 colors from cold to warm, as little-endian pixels: alpha, blue, green, red.
function inksOf([cold, warm]) {
  return Uint32Array.from({ length: 256 }, (_, share) => {
    const [red, green, blue] = mix(cold, warm, share / 255);
    return (255 << 24) | (blue << 16) | (green << 8) | red;
  });
}

function* paintRows(context, { n, cosines, order, low }, inks) {
  const scale = 255 / (1 - low);
  for (let first = 0; first < n; first += ROWS_AT_ONCE) {
    const image = new ImageData(n, Math.min(ROWS_AT_ONCE, n - first));
    const pixels = new Uint32Array(image.data.buffer);
    for (let place = 0; place < pixels.length; place += 1) {
      const row = first + Math.floor(place / n);
      const share = Math.round((cosines[order[row] * n + order[place % n]] - low) * scale);
      pixels[place] = inks[share < 0 ? 0 : share > 255 ? 255 : share];
    }
    context.putImageData(image, 0, first);
    yield;
  }
}

function drawMatrix() {
  if (!painted || at("matrix-frame").hidden) return;
  const canvas = at("matrix");
  const size = Math.round(canvas.clientWidth * devicePixelRatio);
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const { scale, x, y } = matrixZoom.view;
  const n = painted.width;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = (size * scale) / n < 1;
  context.clearRect(0, 0, size, size);
  context.drawImage(painted, x * n, y * n, n / scale, n / scale, 0, 0, size, size);
  if (picked.isOn) drawPicked(context, size);
}

// A cross through the pair that is read out.
function drawPicked(context, size) {
  const { scale, x, y } = matrixZoom.view;
  const cell = (size * scale) / painted.width;
  const [left, top] = [picked.column * cell - x * scale * size, picked.row * cell - y * scale * size];
  context.strokeStyle = getComputedStyle(at("matrix")).color;
  context.lineWidth = Math.max(1, devicePixelRatio);
  const thick = Math.max(cell, 3);
  context.strokeRect(left, -2, thick, size + 4);
  context.strokeRect(-2, top, size + 4, thick);
}

// The pair at a place of the window.
function pickAt(event) {
  if (!state.shown) return;
  const box = at("matrix").getBoundingClientRect();
  const { scale, x, y } = matrixZoom.view;
  const n = state.shown.n;
  const place = (share, start) => Math.min(n - 1, Math.max(0, Math.floor((start + share / scale) * n)));
  pick(place((event.clientY - box.top) / box.height, y), place((event.clientX - box.left) / box.width, x));
}

function pick(row, column) {
  const { order } = state.shown;
  Object.assign(picked, { row, column, isOn: true });
  at("readout").textContent = pairWords(order[row], order[column]);
  drawMatrix();
}

function moveInMatrix(event) {
  const { n } = state.shown;
  const next = event.ctrlKey || event.metaKey ? null : steppedTo(event.key, picked.row, picked.column, n - 1);
  if (next === null) return;
  event.preventDefault();
  matrixZoom.view = showing(matrixZoom.view, (next[1] + 0.5) / n, (next[0] + 0.5) / n);
  pick(...next);
}

const matrixZoom = zoomable("matrix", MATRIX_ZOOM, drawMatrix);
