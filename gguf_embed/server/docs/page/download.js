// The vectors as files, and on the clipboard.

function download(name, type, parts) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // after the browser has read it
}

const shownAsJson = ({ answeredBy, texts, vectors }) => inSlices(jsonLines(answeredBy, texts, vectors));
const shownAsCsv = ({ texts, vectors }) => inSlices(csvLines(texts, vectors));

const DOWNLOADS = {
  "as-npy": (shown) => download("vectors.npy", "application/octet-stream", [npyBytes(shown.vectors)]),
  "as-csv": async (shown) => download("vectors.csv", "text/csv;charset=utf-8", await shownAsCsv(shown)),
  "as-json": async (shown) => download("vectors.json", "application/json", await shownAsJson(shown)),
};

async function save(id) {
  if (!state.shown) return;
  at("copied").textContent = "Writing the file…";
  await DOWNLOADS[id](state.shown);
  at("copied").textContent = "";
}

async function copyVectors() {
  if (!state.shown) return;
  at("copied").textContent = "Copying…";
  const text = (await shownAsJson(state.shown)).join("");
  at("copied").textContent = (await copyText(text)) ? "Copied." : "The browser does not allow copying. Download the file instead.";
}
