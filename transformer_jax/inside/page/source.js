// Where records come from: the server that sent the page, or the page itself if it was saved.

import { bytesOf, revive } from "./arrays.js";

export class Failure extends Error {
  constructor({ code = "failed", message = "", ...facts }) {
    super(message);
    this.code = code;
    this.facts = facts;
  }
}

class Server {
  async model() {
    return this.#ask("api/model");
  }

  async inside(request) {
    const headers = { "Content-Type": "application/json" };
    return revive(await this.#ask("api/inside", { method: "POST", headers, body: JSON.stringify(request) }));
  }

  /** The layer `name` of a record, as in "encoder_0". */
  async layer({ id }, name) {
    return revive(await this.#ask(`api/layer?${new URLSearchParams({ record: id, name })}`));
  }

  async parameters({ part, checkpoint }) {
    return revive(await this.#ask(`api/parameters?${new URLSearchParams({ part, checkpoint: checkpoint ?? "" })}`));
  }

  async #ask(address, options) {
    const reply = await fetch(address, options).catch((error) => {
      throw new Failure({ code: "unreachable", message: error.message });
    });
    const body = await reply.json();
    if (!reply.ok) throw new Failure(body.error);
    return body;
  }
}

class Saved {
  constructor({ model, records, parameters }) {
    this.saved = { ...model, saved: records.map(({ source }) => source) };
    this.records = records;
    this.matrices = parameters;
  }

  async model() {
    return this.saved;
  }

  async inside({ source, checkpoint }) {
    const same = (r) => r.source === source && r.checkpoint === checkpoint;
    const found = this.records.find(same);
    if (!found) throw new Failure({ code: "not_saved" });
    return revive(found.record);
  }

  async layer({ layers }, name) {
    return layers[name];
  }

  /** Of the trained model alone; an empty object where the file has none. */
  async parameters({ part, checkpoint }) {
    return checkpoint === null ? revive(this.matrices[part] ?? {}) : {};
  }
}

/** The server, or what was saved in the element "saved": gzip of JSON, in base 64. */
export async function open() {
  const saved = document.getElementById("saved");
  if (!saved) return new Server();
  const stream = new Blob([bytesOf(saved.textContent.trim())]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Saved(await new Response(stream).json());
}
