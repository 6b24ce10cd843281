// Server-sent events of a response, as parsed JSON.

export class BrokenStreamError extends Error {
  constructor() {
    super("the connection ended before the answer did: run it again");
  }
}

/** Yields the object of every event until [DONE]; comments are skipped. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new BrokenStreamError();
      const parts = (buffered + value).split("\n\n");
      buffered = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue;
        const data = part.slice("data: ".length);
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
