// Pure functions: vectors as files.

// NumPy's format 1.0: float32[n, d] in C order, little-endian.
function npyBytes(vectors) {
  const [n, d] = [vectors.length, vectors[0].length];
  const described = `{'descr': '<f4', 'fortran_order': False, 'shape': (${n}, ${d}), }`;
  const length = Math.ceil((10 + described.length + 1) / 64) * 64; // of everything before the numbers
  const bytes = new Uint8Array(length + 4 * n * d);
  const view = new DataView(bytes.buffer);
  bytes.set([0x93, ...[..."NUMPY"].map(codeOf), 1, 0]);
  view.setUint16(8, length - 10, true);
  bytes.set([...described.padEnd(length - 11), "\n"].map(codeOf), 10);
  vectors.forEach((vector, row) =>
    vector.forEach((value, column) => view.setFloat32(length + 4 * (row * d + column), value, true)),
  );
  return bytes;
}

const codeOf = (letter) => letter.charCodeAt(0);

// The number with as many digits as it takes to read the same float32 again.
const float32Text = (value) => String(Number(value.toPrecision(9)));

const numbersText = (vector) => Array.from(vector, float32Text).join(",");

// Yields after each row, and returns all lines. RFC 4180, with a header: text,0,1,…
function* csvLines(texts, vectors) {
  const lines = [`${["text", ...vectors[0].keys()].join(",")}\r\n`];
  for (const [index, vector] of vectors.entries()) {
    lines.push(`"${texts[index].replaceAll('"', '""')}",${numbersText(vector)}\r\n`);
    yield;
  }
  return lines;
}

// The same as JSON: {"model": …, "data": [{"text": …, "embedding": […]}, …]}.
function* jsonLines(model, texts, vectors) {
  const lines = [`{"model": ${JSON.stringify(model)}, "data": [\n`];
  for (const [index, vector] of vectors.entries()) {
    const comma = index + 1 < vectors.length ? "," : "";
    lines.push(`{"text": ${JSON.stringify(texts[index])}, "embedding": [${numbersText(vector)}]}${comma}\n`);
    yield;
  }
  return [...lines, "]}\n"];
}
