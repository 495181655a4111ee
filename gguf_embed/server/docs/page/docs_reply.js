// A reply as text that fits the page: long arrays and texts are shortened, and so is the whole.

const MAX_NUMBERS = 8; // of an array that has only numbers, on one line
const MAX_ITEMS = 20; // of another array
const MAX_TEXT = 300; // characters of one value
const MAX_REPLY = 6000; // characters of the whole

// {text, cut}: what to show, and whether anything is missing.
function shorten(written, isJson) {
  let text = written;
  let cut = false;
  if (isJson) {
    try {
      [text, cut] = writeJson(JSON.parse(written));
    } catch {} // shown as it is
  }
  if (text.length <= MAX_REPLY) return { text, cut };
  return { text: `${text.slice(0, MAX_REPLY)}…`, cut: true };
}

function writeJson(value) {
  let cut = false;
  const more = (n, what) => {
    cut = true;
    return `… ${n.toLocaleString("en")} more ${what}`;
  };
  const write = (part, indent) => {
    const inner = `${indent}  `;
    if (Array.isArray(part)) {
      const numbers = part.length > 0 && part.every((item) => typeof item === "number");
      const most = numbers ? MAX_NUMBERS : MAX_ITEMS;
      const items = part.slice(0, most).map((item) => write(item, inner));
      if (part.length > most) items.push(more(part.length - most, numbers ? "numbers" : "items"));
      return numbers ? `[${items.join(", ")}]` : block("[", items, "]", indent);
    }
    if (part && typeof part === "object") {
      const items = Object.entries(part).map(([name, item]) => `${JSON.stringify(name)}: ${write(item, inner)}`);
      return block("{", items, "}", indent);
    }
    if (typeof part !== "string" || part.length <= MAX_TEXT) return JSON.stringify(part);
    return `${JSON.stringify(part.slice(0, MAX_TEXT))}${more(part.length - MAX_TEXT, "characters")}`;
  };
  return [write(value, ""), cut];
}

function block(open, items, close, indent) {
  if (items.length === 0) return open + close;
  return `${open}\n${items.map((item) => `${indent}  ${item}`).join(",\n")}\n${indent}${close}`;
}

const sizeOf = (n) => (n < 1000 ? counted(n, "byte") : megabytes(n));
