// The ranking: one list per way to rank, side by side.

const RANKED_AT_FIRST = 10;
const RANKED_MORE = 100;
let rankings = [];

function showRanking({ query, queryVector, vectors, scores, texts, chunks, answeredBy, scoredBy }) {
  rankings = [];
  if (query) {
    const cosines = queryVector && scoresOf(queryVector, vectors);
    const first = cosines && rankedBy(cosines);
    if (first)
      rankings.push({
        title: "Embedding",
        about: `${answeredBy}, cosine`,
        scores: cosines,
        order: first,
        texts,
        chunks,
      });
    if (scores) {
      const order = rankedBy(scores);
      const moves = first && movesFrom(first, order);
      rankings.push({ title: "Reranker", about: `${scoredBy}, score`, scores, order, moves, texts, chunks });
    }
  }
  at("ranking-note").textContent = query
    ? `${counted(texts.length, "text")} for ${quoted(query, 120)}`
    : "Enter a query, and the texts are ranked by how well they answer it.";
  drawRanking(RANKED_AT_FIRST);
}

function drawRanking(limit) {
  at("ranking").replaceChildren(...rankings.map((ranking) => rankingList(ranking, limit)));
  const n = rankings[0]?.order.length ?? 0;
  at("ranking-more").hidden = n <= limit;
  at("ranking-more").textContent = `Show ${Math.min(RANKED_MORE, n - limit)} more of ${counted(n, "text")}`;
}

function rankingList(ranking, limit) {
  const items = ranking.order.slice(0, limit).map((index, place) => rankedItem(ranking, index, place));
  const head = make("h3", {}, ranking.title, " ", make("bdi", { class: "soft" }, ranking.about));
  const scrolls = items.length > RANKED_AT_FIRST ? { tabindex: "0" } : {}; // so that keys can scroll it
  return make("section", {}, head, make("ol", { "aria-label": ranking.title, ...scrolls }, ...items));
}

function rankedItem({ scores, texts, chunks, moves }, index, place) {
  const text = rankedText(texts[index]);
  const titles = chunks?.[index].titles ?? [];
  if (titles.length) text.prepend(make("p", { class: "soft titles", dir: "auto" }, titles.join(" › ")));
  const line = make("div", { class: "line" }, make("span", { class: "soft number" }, String(index + 1)), text);
  if (moves) line.append(...movedParts(moves[place]));
  line.append(make("span", { class: "score" }, scores[index].toFixed(3)));
  const bar = make("div", { class: "bar" });
  bar.style.width = `${100 * shareOf(scores[index], scores)}%`;
  return make("li", { "data-index": index }, line, make("div", { class: "track", "aria-hidden": "true" }, bar));
}

const SHORTENED = 240; // characters

// A long text unfolds.
function rankedText(text) {
  const beginning = short(text, SHORTENED);
  if (!beginning.endsWith("…")) return make("div", { class: "said" }, make("p", { dir: "auto" }, beginning));
  const whole = make("p", { class: "whole", dir: "auto" }, text);
  return make("div", { class: "said" }, make("details", {}, make("summary", { dir: "auto" }, beginning), whole));
}

const movedSign = (places) =>
  places === 0 ? "=" : `${places > 0 ? "↑" : "↓"} ${Math.abs(places).toLocaleString("en")}`;

// A sign for those who see it, and words for those who hear it.
const movedParts = (places) => [
  make("span", { class: "soft", "aria-hidden": "true" }, movedSign(places)),
  make("span", { class: "seen-by-readers moved" }, movedWords(places)),
];

// Compared with the embedding's ranking.
function movedWords(places) {
  if (places === 0) return "the same place";
  return `${counted(Math.abs(places), "place")} ${places > 0 ? "higher" : "lower"}`;
}

// The focus goes to the first entry that was not there before.
function unfoldRanking() {
  const n = at("ranking").querySelector("ol").children.length;
  drawRanking(n + RANKED_MORE);
  const next = at("ranking").querySelectorAll("li")[n];
  next.tabIndex = -1;
  next.focus();
}
