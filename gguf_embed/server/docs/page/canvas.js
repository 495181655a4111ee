// The matrix of many texts: a canvas with a pixel per pair, which can be zoomed.

const MATRIX_ZOOM = 64;
const picked = { row: 0, column: 0, isOn: false };
let painted = null; // a pixel per pair, in the order that is shown

function paintMatrix() {
  const { n, cosines, order, low } = state.shown;
  const colors = Array.from({ length: 256 }, (_, share) => mix(...heatColors(), share / 255));
  const image = new ImageData(n, n);
  const pixels = new Uint32Array(image.data.buffer); // little-endian: alpha, blue, green, red
  const inks = colors.map(([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0);
  const scale = 255 / (1 - low);
  for (let row = 0; row < n; row += 1) {
    const start = order[row] * n;
    for (let column = 0; column < n; column += 1) {
      const share = Math.round((cosines[start + order[column]] - low) * scale);
      pixels[row * n + column] = inks[share < 0 ? 0 : share > 255 ? 255 : share];
    }
  }
  painted = new OffscreenCanvas(n, n);
  painted.getContext("2d").putImageData(image, 0, 0);
  Object.assign(picked, { row: 0, column: 0, isOn: false });
  matrixZoom.reset();
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
