// Shared helpers: elements, storage, and requests to the server.

const KEY = "gguf-embed-key";
const THEME = "gguf-embed-theme";
const at = (id) => document.getElementById(id);

const state = { models: [], running: null, shown: null, polling: null, sample: null, rates: [], locked: false };

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
const SVG_NAMES = new Set(["svg", "circle", "line", "text", "title", "g"]);

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

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, body, signal) {
  const headers = {};
  // headers are bytes: encode the key as UTF-8
  if (key) headers.Authorization = "Bearer " + String.fromCharCode(...new TextEncoder().encode(key));
  if (body) headers["Content-Type"] = "application/json";
  let reply, text;
  try {
    reply = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
    });
    text = await reply.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server is not responding.");
  }
  if (!reply.ok) throw refusal(reply.status, text);
  return text;
}
const callJson = async (...asked) => JSON.parse(await call(...asked));

function refusal(status, text) {
  let message = text;
  try {
    const error = JSON.parse(text).error;
    message = typeof error === "string" ? error : (error.message ?? text);
  } catch {} // not JSON: shown as it is
  return new Refused(status, message);
}
