// From the form to a request: its path and its body.

const GAP = /\[\[([1-9][0-9]{0,5})\]\]/;
// Drawing takes time from a model on the same machine.
const FRAME_HZ = 15;
const INTEGERS = ["max_tokens", "steps", "block_length", "seed"];

/** Text and gaps of a template: "a [[3]] b" is ["a ", 3, " b"]. */
export function segments(text) {
  return text
    .split(GAP)
    .map((part, index) => (index % 2 ? Number(part) : part))
    .filter((part) => part !== "");
}

/** Gap sizes of a template. */
export function gaps(text) {
  return segments(text).filter((part) => typeof part === "number");
}

/** What one run asks for: {path, body}. `values` maps field names to their text; a seed is drawn where none is given. */
export function requestOf(mode, prompt, locking, values) {
  const body = { stream: true, diffusing: true, frame_hz: FRAME_HZ, stream_options: { surelock: "patch" } };
  for (const [name, text] of Object.entries(values)) {
    if (text === "" || name === "kl_threshold") continue;
    body[name] = Number(text);
    if (INTEGERS.includes(name) && Number.isInteger(body[name]) && !Number.isSafeInteger(body[name])) {
      throw new Error(`${name} is ${text}; this page can send at most ${Number.MAX_SAFE_INTEGER}`);
    }
  }
  body.seed ??= crypto.getRandomValues(new Uint32Array(1))[0];
  body.lock = locking && (values.kl_threshold === "" ? true : { kl_threshold: Number(values.kl_threshold) });
  if (mode === "chat") {
    body.messages = [{ role: "user", content: prompt }];
    return { path: "v1/chat/completions", body };
  }
  if (gaps(prompt).length) {
    body.template = segments(prompt);
    // The gaps say how much there is to generate.
    delete body.max_tokens;
  } else {
    body.prompt = prompt;
  }
  return { path: "v1/completions", body };
}

/** The same request with locking off. */
export function unlocked({ path, body }) {
  return { path, body: { ...body, lock: false } };
}
