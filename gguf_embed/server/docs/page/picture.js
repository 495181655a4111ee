// Labels for a picture: the cosines of its vector with those of the labels, from one request.

const LABEL_SCALE = 100; // what CLIP's training ends with: shares are the softmax of so many times the cosine
let picture = "";

function showPictureForm() {
  at("picture-form").hidden = !chosen()?.capabilities?.includes("multimodal");
}

function takePicture(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => {
    picture = reader.result;
    at("preview").replaceChildren(make("img", { src: picture, alt: file.name }));
    labelPicture();
  };
  reader.readAsDataURL(file);
}

const writtenLabels = () => splitTexts(at("labels").value, false);

async function labelPicture() {
  const labels = writtenLabels();
  at("picture-error").hidden = true;
  if (!picture || labels.length === 0) return complain("Choose a picture, and enter at least one label.");
  const parts = [{ type: "image_url", image_url: { url: picture } }];
  const body = { model: chosen()?.id, input: [{ content: parts }, ...labels], encoding_format: "base64" };
  try {
    const { data } = await callJson("v1/embeddings", body);
    const [own, ...others] = data.map((item) => decodeVector(item.embedding));
    showShares(labels, others.map((vector) => dot(own, vector)));
  } catch (error) {
    complain(error.message);
  }
}

function complain(sentence) {
  at("picture-error").textContent = sentence;
  at("picture-error").hidden = false;
}

function sharesOf(cosines) {
  const best = Math.max(...cosines);
  const weights = cosines.map((cosine) => Math.exp(LABEL_SCALE * (cosine - best)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

function showShares(labels, cosines) {
  const rows = sharesOf(cosines).map((share, index) => ({ share, label: labels[index], cosine: cosines[index] }));
  rows.sort((one, other) => other.share - one.share || other.cosine - one.cosine);
  at("shares").replaceChildren(
    ...rows.map(({ share, label, cosine }) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, label),
        make("td", {}, make("progress", { max: 1, value: share, "aria-label": label })),
        make("td", {}, `${(100 * share).toFixed(1)} %`),
        make("td", {}, cosine.toFixed(3)),
      ),
    ),
  );
  at("shares-table").hidden = false;
}
