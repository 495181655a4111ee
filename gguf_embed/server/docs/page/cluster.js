// Pure functions on all pairs of texts. What takes long is a generator that yields often; slices.js runs it.

// All cosines: Float32Array[n * n], row by row.
function* cosinesOf(vectors) {
  const [n, d] = [vectors.length, vectors[0].length];
  const flat = new Float32Array(n * d);
  vectors.forEach((vector, index) => flat.set(vector, index * d));
  const cosines = new Float32Array(n * n);
  for (let row = 0; row < n; row += 1) {
    for (let column = row; column < n; column += 1) {
      const cosine = dotAt(flat, row * d, column * d, d);
      cosines[row * n + column] = cosine;
      cosines[column * n + row] = cosine;
    }
    yield;
  }
  return cosines;
}

// Four sums at once take a third of the time of one.
function dotAt(flat, one, other, d) {
  let [a, b, c, e] = [0, 0, 0, 0];
  let index = 0;
  for (; index + 3 < d; index += 4) {
    a += flat[one + index] * flat[other + index];
    b += flat[one + index + 1] * flat[other + index + 1];
    c += flat[one + index + 2] * flat[other + index + 2];
    e += flat[one + index + 3] * flat[other + index + 3];
  }
  for (; index < d; index += 1) a += flat[one + index] * flat[other + index];
  return a + b + c + e;
}

// Which other text is the closest to each; -1 if there is none.
function* closestOf(cosines, n) {
  const closest = new Int32Array(n).fill(-1);
  for (let row = 0; row < n; row += 1) {
    for (let other = 0; other < n; other += 1) {
      const best = closest[row];
      if (other !== row && (best < 0 || cosines[row * n + other] > cosines[row * n + best])) closest[row] = other;
    }
    yield;
  }
  return closest;
}

// The smallest cosine of two different texts; 0.99 if all are closer, so that colors always have a range.
function* lowestOf(cosines, n) {
  let low = 0.99;
  for (let row = 0; row < n; row += 1) {
    for (let column = row + 1; column < n; column += 1) low = Math.min(low, cosines[row * n + column]);
    yield;
  }
  return low;
}

// The texts in an order in which similar ones are side by side: the leaves of average linkage, found by chains of
// nearest neighbors (Murtagh 1983). Of two clusters, the one with the earlier text comes first.
function* clusterOrder(cosines, n) {
  const links = Float32Array.from(cosines); // average cosine of two clusters, in the rows of their representatives
  const leaves = Array.from({ length: n }, (_, index) => [index]);
  const alive = Array.from({ length: n }, (_, index) => index);
  let chain = [];
  while (alive.length > 1) {
    if (chain.length === 0) chain = [alive[0]];
    const last = chain.at(-1);
    const next = nearestTo(last, chain.at(-2) ?? -1, alive, links, n);
    if (next === chain.at(-2)) {
      chain.length -= 2;
      join(next, last, leaves, alive, links, n);
    } else {
      chain.push(next);
    }
    yield;
  }
  return leaves[alive[0]];
}

// Ties go to `previous`, so that a chain always ends.
function nearestTo(one, previous, alive, links, n) {
  let best = previous;
  for (const other of alive) {
    if (other !== one && (best < 0 || links[one * n + other] > links[one * n + best])) best = other;
  }
  return best;
}

function join(one, other, leaves, alive, links, n) {
  const [sizeOne, sizeOther] = [leaves[one].length, leaves[other].length];
  for (const third of alive) {
    if (third === one || third === other) continue;
    const link = (sizeOne * links[one * n + third] + sizeOther * links[other * n + third]) / (sizeOne + sizeOther);
    links[one * n + third] = link;
    links[third * n + one] = link;
  }
  const [first, second] = leaves[one][0] < leaves[other][0] ? [one, other] : [other, one];
  leaves[one] = leaves[first].concat(leaves[second]);
  leaves[other] = [];
  alive.splice(alive.indexOf(other), 1);
}
