// Pure functions without document or network access. Vectors are Float32Array of length 1.

// The non-empty texts: one per line, or blocks separated by an empty line.
function splitTexts(written, inBlocks) {
  const texts = written.replace(/\r\n?/g, "\n").split(inBlocks ? /\n[ \t]*\n/ : "\n");
  return texts.map((text) => text.trim()).filter((text) => text !== "");
}

// Base64 of little-endian float32.
function decodeVector(base64) {
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let index = 0; index < bytes.length; index += 1) bytes[index] = letters.charCodeAt(index);
  const view = new DataView(bytes.buffer);
  const vector = new Float32Array(bytes.length / 4);
  for (let index = 0; index < vector.length; index += 1) vector[index] = view.getFloat32(index * 4, true);
  return vector;
}

function dot(one, other) {
  let sum = 0;
  for (let index = 0; index < one.length; index += 1) sum += one[index] * other[index];
  return sum;
}

// "1 text", "1,200 texts", "2 batches".
function counted(n, noun, nouns = `${noun}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? noun : nouns}`;
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
