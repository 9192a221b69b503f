// Talks to the server this page came from: its health, its model, and answers as they are made.

/** An error that the server explained. */
export class ServerError extends Error {
  constructor({ message, code } = {}, status) {
    super(message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = code;
  }
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function refuse(response) {
  const body = await response.json().catch(() => ({}));
  throw new ServerError(body.error, response.status);
}

/** {status: "ready" | "loading" | "failed" | "stopping" | "gone", model, backend} */
export async function health() {
  try {
    const response = await fetch("/health", { cache: "no-store" });
    return await response.json();
  } catch {
    return { status: "gone" };
  }
}

/** The card of the model, {id, context_length, defaults}; undefined where the server does not tell. */
export async function card(key) {
  const response = await fetch("/v1/models", { headers: headers(key) });
  return response.ok ? (await response.json()).data[0] : undefined;
}

/** Ask for an answer; calls onText(text, tokens so far) for every piece, returns {finish, usage, timings, dropped}. Abort with the signal. */
export async function chat(request, { key, signal, onText }) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers(key) },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } }),
    signal,
  });
  if (!response.ok) await refuse(response);
  const told = { finish: null, usage: null, timings: null, dropped: Number(response.headers.get("x-dropped-messages")) };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return told;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error, 500);
    if (chunk.usage) told.usage = chunk.usage;
    if (chunk.timings) told.timings = chunk.timings;
    const choice = chunk.choices[0];
    if (choice?.delta.content) onText(choice.delta.content, chunk.usage.completion_tokens);
    if (choice?.finish_reason) told.finish = choice.finish_reason;
  }
  throw new ServerError({ message: "The connection ended before the answer did." }, 0);
}

/** The data of each server-sent event. Comments (the server's sign of life) are skipped. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const event of whole) if (event.startsWith("data: ")) yield event.slice(6);
  }
}
