// Pure functions without document or network access. Vectors are Float32Array of length 1.

// The non-empty texts: one per line, or blocks separated by an empty line.
function splitTexts(written, inBlocks) {
  const texts = written.replace(/\r\n?/g, "\n").split(inBlocks ? /\n[ \t]*\n/ : "\n");
  return texts.map((text) => text.trim()).filter((text) => text !== "");
}

// Base64 of little-endian float32.
function decodeVector(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(index * 4, true));
}

function dot(one, other) {
  let sum = 0;
  for (let index = 0; index < one.length; index += 1) sum += one[index] * other[index];
  return sum;
}

// "1 text", "1,200 texts".
function counted(n, noun) {
  return `${n.toLocaleString("en")} ${n === 1 ? noun : `${noun}s`}`;
}

// "0.83", and never "-0.00".
function twoDigits(value) {
  const written = value.toFixed(2);
  return written === "-0.00" ? "0.00" : written;
}

// Prometheus's text format: name → the sum over its labels, and name{labels} → the value.
function parseMetrics(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels, value] = /^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)/.exec(line) ?? [];
    if (name) sums.set(name, (sums.get(name) ?? 0) + Number(value));
    if (labels) sums.set(name + labels, Number(value));
  }
  return sums;
}

// Principal components by power iteration: {points: [[x, y], …], shares: [share of the variance on each axis]}. Null if
// all vectors are equal within float32 precision.
function project(vectors) {
  const rows = centered(vectors);
  const total = rows.reduce((sum, row) => sum + dot(row, row), 0);
  if (total < 1e-10 * rows.length) return null;
  const axes = [];
  const shares = [];
  for (let which = 0; which < 2; which += 1) {
    const axis = strongestAxis(rows, axes);
    axes.push(axis);
    shares.push(rows.reduce((sum, row) => sum + dot(row, axis) ** 2, 0) / total);
  }
  return { points: rows.map((row) => axes.map((axis) => dot(row, axis))), shares };
}

function centered(vectors) {
  const mean = new Float64Array(vectors[0].length);
  for (const vector of vectors)
    vector.forEach((value, index) => {
      mean[index] += value / vectors.length;
    });
  return vectors.map((vector) => Float64Array.from(vector, (value, index) => value - mean[index]));
}

// The direction of the largest variance that is orthogonal to `others`; zeros if no variance is left.
function strongestAxis(rows, others) {
  let axis = rows
    .map((row) => orthogonal(row, others))
    .reduce((best, row) => (dot(row, row) > dot(best, best) ? row : best));
  for (let round = 0; round < 200; round += 1) {
    const length = Math.sqrt(dot(axis, axis));
    if (length < 1e-9) return axis.fill(0);
    axis = axis.map((value) => value / length);
    const next = new Float64Array(axis.length);
    for (const row of rows) {
      const weight = dot(row, axis);
      row.forEach((value, index) => {
        next[index] += weight * value;
      });
    }
    const turned = orthogonal(next, others);
    const cosine = dot(turned, axis) / Math.sqrt(dot(turned, turned) || 1);
    if (cosine > 1 - 1e-12) break;
    axis = turned;
  }
  const length = Math.sqrt(dot(axis, axis));
  const sign = axis.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best)) < 0 ? -1 : 1;
  return axis.map((value) => (sign * value) / length);
}

function orthogonal(row, others) {
  const rest = Float64Array.from(row);
  for (const other of others) {
    const along = dot(rest, other);
    other.forEach((value, index) => {
      rest[index] -= along * value;
    });
  }
  return rest;
}

// Colors as [red, green, blue] from 0 to 255.
function mix(low, high, share) {
  return low.map((value, index) => Math.round(value + (high[index] - value) * share));
}

// Black or white, by WCAG 2.2's relative luminance: the one with more contrast (at least 4.5 : 1 on every color).
function inkOn(color) {
  const [red, green, blue] = color.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

// Positions for the points' labels so that none overlap: {x, y, anchor, text}, in pixels.
function placeLabels(spots, labels, width, height) {
  const taken = spots.map(([x, y]) => [x - 5, y - 5, x + 5, y + 5]);
  return spots.map(([x, y], index) => {
    for (const text of labels[index]) {
      const wide = text.length * 7.9;
      const places = [
        [x + 9, y + 4, "start", x + 9],
        [x - 9, y + 4, "end", x - 9 - wide],
        [x, y - 10, "middle", x - wide / 2],
        [x, y + 19, "middle", x - wide / 2],
      ];
      for (const [atX, atY, anchor, left] of places) {
        const box = [left, atY - 12, left + wide, atY + 3];
        const inside = box[0] >= 0 && box[1] >= 0 && box[2] <= width && box[3] <= height;
        if (
          inside &&
          !taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])
        ) {
          taken.push(box);
          return { x: atX, y: atY, anchor, text };
        }
      }
    }
    return null;
  });
}
