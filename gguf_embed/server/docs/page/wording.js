// Pure functions: what the page says, in its own words, and the direction of texts.

// The first letter decides, as dir=auto does.
const RIGHT_TO_LEFT = /^\P{L}*[\p{sc=Hebr}\p{sc=Arab}\p{sc=Syrc}\p{sc=Thaa}\p{sc=Nkoo}\p{sc=Adlm}]/u;
const directionOf = (text) => (RIGHT_TO_LEFT.test(text) ? "rtl" : "ltr");

// For places that take no elements: the text's direction does not change that of the sentence around it.
const isolated = (text) => `\u2068${text}\u2069`;

// The text on one line, shortened to n characters.
function short(text, n) {
  const start = text
    .slice(0, 4 * n)
    .replace(/\s+/g, " ")
    .trim(); // a character has up to a few code units
  const letters = [...start];
  return letters.length > n ? `${letters.slice(0, n).join("")}…` : start + (text.length > 4 * n ? "…" : "");
}

const quoted = (text, n) => `“${isolated(short(text, n))}”`;

const MS_WITH_DECIMALS = 10;

function ms(value) {
  const rounded = value < MS_WITH_DECIMALS ? value.toFixed(1) : Math.round(value).toLocaleString("en");
  return `${rounded} ms`;
}

// "1.5 MB", in powers of 1,000 as disks and `gguf-embed pull` have them.
function megabytes(bytes) {
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3).toLocaleString("en")} kB`;
  return `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 })} MB`;
}

const isTooLong = (error) => error.nTokens !== undefined && error.limit !== undefined;

// What a refused request means to somebody who sees the page and not the API. `texts`: what was sent.
function wordsFor(error, texts) {
  if (isTooLong(error)) return tooLongWords(error, texts);
  switch (error.status) {
    case 403:
      return `The server does not allow this: ${error.message}`;
    case 404:
      return `This model is no longer served. Choose another one. (${error.message})`;
    case 413:
      return "The texts are larger than the server takes in one request. Use fewer or shorter ones.";
    case 429:
      return "The server has too much to do. Try again in a moment.";
    case 503:
      return `The server cannot compute this now: ${error.message}`;
    default:
      return error.status ? `The server refused this: ${error.message}` : error.message;
  }
}

function tooLongWords({ index, nOthers, isPart, nTokens, limit, isPair }, texts) {
  const which = index === undefined ? "One text" : `Text ${(index + 1).toLocaleString("en")}`;
  const beginning = texts?.[index] === undefined ? "" : `, ${quoted(texts[index], 40)},`;
  const size = `has ${counted(nTokens, "token")}${isPair ? " together with the query" : ""}`;
  const others = nOthers ? otherWords(nOthers, isPart) : "";
  return `${which}${beginning} ${size}; the model reads up to ${limit.toLocaleString("en")}.${others} Make ${nOthers ? "them" : "it"} shorter, or tick “Truncate texts that are too long”.`;
}

// `isPart`: the texts after these have not been sent, so there may be more.
const otherWords = (n, isPart) =>
  ` ${isPart ? "At least " : ""}${counted(n, "other text")} ${n === 1 ? "is" : "are"} too long, too.`;
