// Shared helpers: elements, storage, and requests to the server.

const KEY = "gguf-embed-key";
const THEME = "gguf-embed-theme";
const at = (id) => document.getElementById(id);

const state = { models: [], running: null, shown: null, polling: null, locked: false, file: null };

// An element with attributes and children; strings become text, never markup.
function make(name, attributes = {}, ...children) {
  const element = document.createElementNS(
    SVG_NAMES.has(name) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml",
    name,
  );
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const SVG_NAMES = new Set(["svg", "circle", "path", "line", "text", "title", "g"]);

// Reads, writes, or with "" removes a storage entry. If the browser refuses, the value lasts until the page is closed.
function stored(place, name, value) {
  try {
    if (value === undefined) return place().getItem(name) ?? "";
    if (value === "") place().removeItem(name);
    else place().setItem(name, value);
  } catch {}
  return value ?? "";
}
let key = stored(() => sessionStorage, KEY);

// A request that failed. Status 0: nobody answered. The other fields are those of the server's error object.
class Refused extends Error {
  constructor(status, { message, index, indexes, n_prompt_tokens, n_ctx }) {
    super(message);
    const nOthers = indexes ? indexes.length - 1 : 0;
    Object.assign(this, { status, index, nOthers, nTokens: n_prompt_tokens, limit: n_ctx });
  }
}

// Headers are bytes, so the key is encoded as UTF-8.
const keyHeaders = () =>
  key ? { Authorization: "Bearer " + String.fromCharCode(...new TextEncoder().encode(key)) } : {};

async function send(path, body, signal, more = {}) {
  const headers = { ...keyHeaders(), ...more };
  if (body) headers["Content-Type"] = "application/json";
  const reply = await fetch(path, {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    signal,
    cache: "no-store",
  });
  if (!reply.ok) throw refusal(reply.status, await reply.text());
  return reply;
}

const GONE = { message: "The server is not responding." };

// What fetch throws when nobody answers, in our words.
function unanswered(error) {
  return error.name === "AbortError" || error instanceof Refused ? error : new Refused(0, GONE);
}

async function call(...asked) {
  try {
    return await (await send(...asked)).text();
  } catch (error) {
    throw unanswered(error);
  }
}
const callJson = async (...asked) => JSON.parse(await call(...asked));

// A reply with one JSON object per line; `take` gets each as it arrives.
async function callLines(path, body, take, signal) {
  let rest = "";
  try {
    const reader = (await send(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const line of lines) take(JSON.parse(line));
    }
  } catch (error) {
    throw unanswered(error);
  }
}

function refusal(status, text) {
  try {
    const { error } = JSON.parse(text);
    return new Refused(status, typeof error === "string" ? { message: error } : { message: text, ...error });
  } catch {
    return new Refused(status, { message: text }); // not JSON: shown as it is
  }
}
