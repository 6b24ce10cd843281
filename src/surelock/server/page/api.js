// The server's API as this page uses it. The key is asked for at every request and kept nowhere.

import { BrokenStreamError, events } from "./events.js";

/** A refusal or failure, with the server's one-line message. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Api {
  constructor(key) {
    this.key = key;
  }

  /** The model that is served: {id, max_model_len}. */
  async model() {
    const response = await this.#fetch("v1/models", {});
    return (await response.json()).data[0];
  }

  /** Yields the chunks of a stream; ends early, with an AbortError, when the signal says so. */
  async *stream(path, body, signal) {
    const headers = { "content-type": "application/json" };
    const response = await this.#fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    try {
      for await (const chunk of events(response.body)) {
        if (chunk.error) throw new ApiError(chunk.error.message, 200);
        yield chunk;
      }
    } catch (error) {
      // A connection that breaks is a TypeError of the browser's own wording.
      throw error instanceof TypeError ? new BrokenStreamError() : error;
    }
  }

  async #fetch(path, options) {
    const key = this.key();
    const headers = key ? { ...options.headers, authorization: `Bearer ${key}` } : options.headers;
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), { ...options, headers, credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("the server cannot be reached: check that it still runs", 0);
    }
    if (response.ok) return response;
    const envelope = await response.json().catch(() => null);
    throw new ApiError(envelope?.error?.message ?? `the server answered ${response.status}`, response.status);
  }
}
