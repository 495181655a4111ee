// Pure functions: the order of texts for a query.

// The indexes of the texts, best first; equal scores in the order of the texts.
function rankedBy(scores) {
  return [...scores.keys()].sort((one, other) => scores[other] - scores[one] || one - other);
}

// For each entry of `order`, how many places it is higher than in `before`; negative: lower.
function movesFrom(before, order) {
  const places = new Map(before.map((index, place) => [index, place]));
  return order.map((index, place) => places.get(index) - place);
}

// From 0 to 1, for the length of a bar: the worst score has none unless all are equal.
function shareOf(score, scores) {
  let [low, high] = [Infinity, -Infinity];
  for (const one of scores) [low, high] = [Math.min(low, one), Math.max(high, one)];
  return high > low ? (score - low) / (high - low) : 1;
}

const scoresOf = (query, vectors) => vectors.map((vector) => dot(query, vector));

// The names of the prompts that a model has for queries and for what is searched; "" for none.
function promptsFor(prompts) {
  const names = Object.keys(prompts ?? {});
  const first = (words) => names.find((name) => words.test(name)) ?? "";
  return {
    query: first(/^(search_|retrieval[._])?query$/i),
    texts: first(/^((search_|retrieval[._])?(document|passage)|doc)$/i),
  };
}
