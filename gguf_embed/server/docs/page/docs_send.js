// Sending what a form asks for, and showing the reply.

// Fills a section's form: the choice of the route, its controls, the buttons and the place of the reply.
function buildForm(form, routes, description) {
  const controls = make("div", { class: "controls" });
  const question = make("div", { class: "alert", role: "alertdialog", "aria-label": "Confirm", hidden: "" });
  const reply = makeReply();
  const stop = make("button", { type: "button", hidden: "" }, "Cancel");
  const buttons = make("div", { class: "actions" }, make("button", { class: "main" }, "Send"), stop, reply.status);
  let route = routes[0];
  const use = (index) => {
    route = routes[index];
    question.hidden = true;
    controls.replaceChildren(...controlsOf(describeRoute(description, route)));
  };
  use(0);
  const go = () => {
    question.hidden = true;
    sendForm(requestOf(controls, route), reply, stop);
  };
  form.append(...choiceOf(routes, use), controls, question, buttons, reply.box);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { operation } = describeRoute(description, route);
    if (operation["x-confirm"]) ask(question, operation["x-confirm"], requestOf(controls, route), go);
    else go();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

function choiceOf(routes, use) {
  if (routes.length === 1) return [];
  const options = routes.map(({ method, path }, index) => make("option", { value: index }, `${method} ${path}`));
  const choice = make("select", {}, ...options);
  choice.addEventListener("change", () => use(choice.value));
  return [make("label", {}, "Route", choice)];
}

// Routes that delete or stop something are sent by a second button, which says what it does.
function ask(question, sentence, { method, url }, go) {
  const yes = make("button", { type: "button", class: "main" }, `Send ${method} ${url.slice(1)}`);
  const no = make("button", { type: "button" }, "Do not send");
  yes.addEventListener("click", go);
  no.addEventListener("click", () => {
    question.hidden = true;
  });
  question.replaceChildren(make("p", {}, sentence), make("div", { class: "actions" }, yes, no));
  question.hidden = false;
  no.focus();
}

// {status, box, …}: a line that is read aloud, and the reply below it.
function makeReply() {
  const text = make("pre", { tabindex: "0", "aria-label": "Reply" });
  const note = make("p", { class: "hint" });
  const code = make("div", { class: "code" }, text);
  const reply = { status: make("span", { class: "hint", role: "status" }), text, note, whole: "" };
  code.append(copyButton(() => reply.whole));
  reply.box = make("div", { hidden: "" }, code, note);
  return reply;
}

async function sendForm(asked, reply, stop) {
  const control = new AbortController();
  const startedMs = performance.now();
  const cancel = () => control.abort();
  stop.hidden = false;
  stop.addEventListener("click", cancel);
  reply.status.textContent = "Sending…";
  reply.box.hidden = true;
  try {
    const answer = await fetch(asked.url, {
      method: asked.method,
      headers: { ...asked.headers, ...keyHeaders() },
      body: asked.body,
      signal: control.signal,
      cache: "no-store",
    });
    const first = `${answer.status} ${answer.statusText}`;
    const n = await readReply(answer, (whole) => showReply(reply, answer, whole));
    reply.status.textContent = `${first} · ${ms(performance.now() - startedMs)} · ${sizeOf(n)}`;
    if (answer.status === 401) showKeyForm("This request needs a valid API key.");
  } catch (error) {
    reply.status.textContent =
      error.name === "AbortError" ? "Canceled." : "The server is not responding. Is it still running?";
  } finally {
    stop.hidden = true;
    stop.removeEventListener("click", cancel);
  }
}

// Shows the reply as it arrives, because some take minutes. Returns the number of bytes.
async function readReply(answer, show) {
  const decoder = new TextDecoder();
  let n = 0;
  let whole = "";
  if (answer.body)
    for (let reader = answer.body.getReader(); ; ) {
      const { value, done } = await reader.read();
      if (done) break;
      n += value.length;
      whole += decoder.decode(value, { stream: true });
      if (whole.length <= MAX_REPLY) show(whole);
    }
  show(whole + decoder.decode());
  return n;
}

function showReply(reply, answer, whole) {
  const { text, cut } = shorten(whole, (answer.headers.get("Content-Type") ?? "").startsWith("application/json"));
  reply.whole = whole;
  reply.text.textContent = text || "The reply has no body.";
  reply.note.textContent = cut ? "The reply is shortened. “Copy” takes all of it." : "";
  reply.box.hidden = false;
}
