// The chat page: one list of messages, drawn as articles; one answer at a time.

import { ServerError, card, chat, health } from "./client.js";
import { element, render } from "./markdown.js";
import { store } from "./store.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const messages = store.messages(); // {role, content, count?, cut?, short?}
let answering = null; // the AbortController of the answer that is being made
let editing = false;

// Drawing

function count(message) {
  const { tokens, seconds, rate } = message.count ?? {};
  const words = [];
  if (tokens) words.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (rate) words.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  if (seconds !== undefined) words.push(`first after ${seconds.toFixed(2)} s`);
  if (message.cut) words.push(message.cut);
  if (message.short) words.push(message.short);
  return words.join(" · ");
}

function action(name, label, does) {
  const button = element("button", { type: "button", className: `quiet ${name}`, textContent: label });
  button.addEventListener("click", does);
  return button;
}

function article(message, index) {
  const mine = message.role === "user";
  const text = element("div", { className: "text" });
  const made = element("article", { className: message.role }, element("h2", { className: "unseen" }, mine ? "You" : "Answer"), text);
  if (mine) text.textContent = message.content;
  else text.append(...render(message.content));
  const last = index >= messages.length - (mine ? 2 : 1);
  const meta = element("div", { className: "meta" });
  if (answering && index === messages.length - 1) meta.append(element("span", { className: "count" }, ""));
  else if (mine && last) {
    meta.append(action("edit", "Edit", edit));
    meta.lastElementChild.disabled = answering !== null; // there, but unseen: nothing jumps when the answer is complete
  }
  else if (!mine) {
    meta.append(action("copy", "Copy", (event) => copy(event.currentTarget, message.content)));
    if (last) meta.append(action("retry", "Retry", retry));
    meta.append(element("span", { className: "count" }, count(message)));
  }
  if (meta.hasChildNodes()) made.append(meta);
  return made;
}

function draw() {
  $("welcome").hidden = messages.length > 0;
  $("log").replaceChildren(...messages.map(article));
  const open = messages.at(-1)?.role === "user" && !answering;
  if (open) $("log").lastElementChild.querySelector(".meta").prepend(action("retry", "Retry", retry));
  $("send").hidden = answering !== null;
  $("stop").hidden = answering === null;
  $("clear").disabled = messages.length === 0;
  $("editing").hidden = !editing;
}

const main = document.querySelector("main");
const atEnd = () => main.scrollHeight - main.scrollTop - main.clientHeight < 80;
const toEnd = () => (main.scrollTop = main.scrollHeight);
let followed = true; // whether the end was in view before the window changed its size (a phone's keyboard does that)
main.addEventListener("scroll", () => (followed = atEnd()), { passive: true });
new ResizeObserver(() => followed && toEnd()).observe(main);

function problem(text) {
  $("problem").textContent = text ?? "";
  $("problem").hidden = !text;
}

function say(text) {
  $("status").textContent = text;
}

// Conversation

function submit(text) {
  if (answering || !text.trim()) return;
  if (editing) messages.splice(messages.findLastIndex((m) => m.role === "user"));
  editing = false;
  messages.push({ role: "user", content: text.trim() });
  $("prompt").value = "";
  grow();
  answer();
}

async function answer() {
  problem();
  const asked = request();
  const message = { role: "assistant", content: "" };
  messages.push(message);
  answering = new AbortController();
  draw();
  toEnd();
  say("Answering.");
  const view = $("log").lastElementChild;
  view.setAttribute("aria-busy", "true");
  const started = performance.now();
  let first = 0, early = 0, tokens = 0, frame = 0; // when the first text came, how many tokens it was, how many there are
  const measured = () => (tokens > early ? (tokens - early) / ((performance.now() - first) / 1000) : 0);
  const show = () => {
    frame = 0;
    const follow = atEnd();
    view.querySelector(".text").replaceChildren(...(message.content ? render(message.content) : [element("p", {}, "")]));
    if (tokens) view.querySelector(".count").textContent = count({ count: { tokens, rate: measured() } });
    if (follow) toEnd();
  };
  show();
  const onText = (text, count) => {
    first ||= performance.now();
    early ||= count;
    tokens = count;
    message.content += text;
    frame ||= requestAnimationFrame(show);
  };
  try {
    const told = await chat(asked, { key: store.key(), signal: answering.signal, onText });
    if (told.finish === "length") message.cut = "cut at the longest length";
    const rate = told.timings?.decode_tps ?? measured();
    message.count = { tokens: told.usage?.completion_tokens ?? tokens, rate, seconds: ((first || performance.now()) - started) / 1000 };
    if (told.dropped) message.short = `the ${told.dropped} oldest messages no longer fit and were left out`;
    say(`Answer complete, ${message.count.tokens} tokens.${message.short ? ` Note: ${message.short}.` : ""}`);
  } catch (error) {
    if (error.name === "AbortError") {
      message.cut = "stopped";
      message.count = { tokens, rate: measured() };
      say("Stopped.");
    } else {
      message.cut = "broken off";
      explain(error);
    }
  } finally {
    cancelAnimationFrame(frame);
    answering = null;
    if (!message.content) messages.pop();
    store.saveMessages(messages);
    const follow = atEnd();
    draw();
    if (follow) toEnd();
  }
}

function explain(error) {
  if (!(error instanceof ServerError)) problem("The server cannot be reached. Is it still running? Your conversation is kept; try again when it is back.");
  else if (error.status === 401) problem("This server asks for an API key. Enter it under Settings, then press Retry.");
  else if (error.code === "context_length_exceeded") problem("This conversation is longer than the model can take in. Edit your message to be shorter, or start a new chat.");
  else problem(error.message);
  say("");
  watch();
}

function request() {
  const settings = store.settings();
  const asked = { messages: messages.map(({ role, content }) => ({ role, content })) };
  if (settings.system?.trim()) asked.messages.unshift({ role: "system", content: settings.system });
  for (const name of NUMBERS) if (typeof settings[name] === "number") asked[name] = settings[name];
  return asked;
}

function retry() {
  if (answering) return;
  if (messages.at(-1)?.role === "assistant") messages.pop();
  answer();
  $("prompt").focus();
}

function edit() {
  if (answering) return;
  editing = true;
  $("prompt").value = messages.findLast((m) => m.role === "user").content;
  draw();
  grow();
  $("prompt").focus();
}

function keep() {
  editing = false;
  $("prompt").value = "";
  draw();
  grow();
  $("prompt").focus();
}

function clear() {
  if (!confirm("Delete this conversation? It is stored only in this browser.")) return;
  answering?.abort();
  messages.length = 0;
  editing = false;
  store.saveMessages(messages);
  problem();
  draw();
  say("Conversation deleted.");
  $("prompt").focus();
}

async function copy(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here"; // browsers keep the clipboard from pages without https, but for localhost
  }
  say(button.textContent);
  setTimeout(() => (button.textContent = label), 1500);
}

// Settings

function fill() {
  const settings = store.settings();
  for (const name of ["system", ...NUMBERS]) $(name).value = settings[name] ?? "";
  $("key").value = store.key();
}

async function tellDefaults() {
  const { defaults, context_length: context } = (await card(store.key()).catch(() => undefined)) ?? {};
  for (const [name, value] of Object.entries(defaults ?? {})) if (NUMBERS.includes(name)) $(name).placeholder = value;
  if (context) $("max_tokens").max = context;
}

function keepSettings() {
  const settings = { system: $("system").value };
  for (const name of NUMBERS) if ($(name).value !== "" && $(name).validity.valid) settings[name] = $(name).valueAsNumber;
  store.saveSettings(settings);
  store.saveKey($("key").value);
}

function grow() {
  const box = $("prompt");
  if (CSS.supports("field-sizing", "content")) return;
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

// The server

let watching = 0;
async function watch() {
  clearTimeout(watching);
  const { status, model, backend } = await health();
  const names = { loading: "loading the model …", failed: "the model could not be loaded", stopping: "the server is stopping", gone: "no connection" };
  $("model").dataset.state = status === "ready" ? "ready" : status === "loading" ? "loading" : "failed";
  $("model-name").textContent = names[status] ?? model;
  $("model").title = status === "ready" ? `${model}, running on the ${backend} backend` : "";
  if (status !== "ready") watching = setTimeout(watch, 1500);
}

// Wiring

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit($("prompt").value);
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit($("prompt").value);
});
$("prompt").addEventListener("input", grow);
$("stop").addEventListener("click", () => {
  answering?.abort();
  $("prompt").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("settings").open) return;
  if (answering) answering.abort();
  else if (editing) keep();
});
$("log").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button, button.dataset.copy);
});
$("ideas").addEventListener("click", (event) => {
  if (event.target.matches("button")) submit(event.target.textContent);
});
$("cancel-edit").addEventListener("click", keep);
$("clear").addEventListener("click", clear);
$("open-settings").addEventListener("click", () => {
  fill();
  tellDefaults();
  $("settings").showModal();
});
$("settings").addEventListener("input", keepSettings);
$("settings").addEventListener("click", (event) => {
  if (event.target === $("settings")) $("settings").close(); // the backdrop
});
$("defaults").addEventListener("click", () => {
  store.saveSettings({});
  fill();
});

draw();
toEnd();
watch();
