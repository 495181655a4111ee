// Pure functions: which part of a drawing is seen. {scale, x, y}: x and y are the top left corner, as shares of the whole.

const WHOLE = { scale: 1, x: 0, y: 0 };

function kept({ scale, x, y }) {
  const most = 1 - 1 / scale;
  const clamp = (value) => Math.min(most, Math.max(0, value));
  return { scale, x: clamp(x), y: clamp(y) };
}

// Zoomed so that what is at (px, py), shares of what is seen, stays where it is.
function zoomedAt({ scale, x, y }, factor, px, py, most) {
  const next = Math.min(most, Math.max(1, scale * factor));
  return kept({ scale: next, x: x + px / scale - px / next, y: y + py / scale - py / next });
}

// Moved by shares of what is seen: with (0.1, 0), what was right of it comes in.
const pannedBy = ({ scale, x, y }, dx, dy) => kept({ scale, x: x + dx / scale, y: y + dy / scale });

// Moved as little as needed to see the point, given as shares of the whole.
function showing({ scale, x, y }, px, py) {
  const fit = (start, point) => Math.min(Math.max(start, point - 0.95 / scale), point - 0.05 / scale);
  return kept({ scale, x: fit(x, px), y: fit(y, py) });
}
