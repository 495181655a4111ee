// Pure functions: vectors as points in a plane, and where their labels fit.

const MAX_ROUNDS = 200;

// Principal components by power iteration: {points: [[x, y], …], shares: [share of the variance on each axis], place},
// where `place` gives the point of any other vector. Null if all vectors are equal within float32 precision.
function* project(vectors) {
  const mean = meanOf(vectors);
  const rows = vectors.map((vector) => Float64Array.from(vector, (value, index) => value - mean[index]));
  const total = rows.reduce((sum, row) => sum + dot(row, row), 0);
  if (total < 1e-10 * rows.length) return null;
  const axes = [];
  const shares = [];
  for (let which = 0; which < 2; which += 1) {
    const axis = yield* strongestAxis(rows, axes);
    axes.push(axis);
    shares.push(rows.reduce((sum, row) => sum + dot(row, axis) ** 2, 0) / total);
  }
  const place = (vector) => axes.map((axis) => dot(vector, axis) - dot(mean, axis));
  return { points: vectors.map(place), shares, place };
}

function meanOf(vectors) {
  const mean = new Float64Array(vectors[0].length);
  for (const vector of vectors) addTo(mean, vector, 1 / vectors.length);
  return mean;
}

function addTo(sum, vector, weight) {
  for (let index = 0; index < sum.length; index += 1) sum[index] += weight * vector[index];
}

// The direction of the largest variance that is orthogonal to `others`; zeros if no variance is left.
function* strongestAxis(rows, others) {
  let axis = rows
    .map((row) => orthogonal(row, others))
    .reduce((best, row) => (dot(row, row) > dot(best, best) ? row : best));
  for (let round = 0; round < MAX_ROUNDS; round += 1) {
    const length = Math.sqrt(dot(axis, axis));
    if (length < 1e-9) return axis.fill(0);
    axis = axis.map((value) => value / length);
    const next = new Float64Array(axis.length);
    for (const row of rows) addTo(next, row, dot(row, axis));
    const turned = orthogonal(next, others);
    const cosine = dot(turned, axis) / Math.sqrt(dot(turned, turned) || 1);
    if (cosine > 1 - 1e-12) break;
    axis = turned;
    yield;
  }
  const length = Math.sqrt(dot(axis, axis));
  const sign = axis.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best)) < 0 ? -1 : 1;
  return axis.map((value) => (sign * value) / length);
}

function orthogonal(row, others) {
  const rest = Float64Array.from(row);
  for (const other of others) addTo(rest, other, -dot(rest, other));
  return rest;
}

// Pixels for the points. Uses the same scale for both axes, to preserve distances.
function fit(points, width, height) {
  const [left, right] = rangeOf(points.map(([x]) => x));
  const [bottom, top] = rangeOf(points.map(([, y]) => y));
  const scale = Math.min((width - 90) / (right - left || 1), (height - 60) / (top - bottom || 1));
  return points.map(([x, y]) => [
    width / 2 + (x - (left + right) / 2) * scale,
    height / 2 - (y - (bottom + top) / 2) * scale,
  ]);
}

const rangeOf = (values) =>
  values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

// Positions for the points' labels so that none overlap: {x, y, anchor, text}, in pixels, or null. `labels`: for each
// point its label in several lengths, the longest first. After `most` labels, the others get none.
function placeLabels(spots, labels, width, height, most) {
  const taken = spots.map(([x, y]) => [x - 5, y - 5, x + 5, y + 5]);
  let placed = 0;
  return spots.map(([x, y], index) => {
    if (placed >= most) return null;
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
        if (inside && !taken.some((other) => overlap(box, other))) {
          taken.push(box);
          placed += 1;
          return { x: atX, y: atY, anchor, text };
        }
      }
    }
    return null;
  });
}

const overlap = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];

// The index of the spot that is the closest to a place, at most `limit` pixels away; else -1.
function nearestSpot(spots, x, y, limit) {
  let [best, distance] = [-1, limit];
  spots.forEach(([spotX, spotY], index) => {
    const away = Math.hypot(spotX - x, spotY - y);
    if (away <= distance) [best, distance] = [index, away];
  });
  return best;
}
