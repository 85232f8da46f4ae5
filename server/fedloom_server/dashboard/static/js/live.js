// What the page hears of the stream: through the worker that all tabs share, or by itself where there is none.
import { follow } from "./stream.js";

const listeners = new Set();
let state = "connecting";

function hear(message) {
  if (message.kind === "state") {
    if (message.state === state) return;
    state = message.state;
  }
  for (const listener of [...listeners]) listener(message);
}

export function start() {
  if (!("SharedWorker" in globalThis)) return follow(hear);
  const worker = new SharedWorker("/static/js/worker.js", { type: "module", name: "fedloom" });
  const { port } = worker;
  worker.onerror = () => follow(hear);
  port.onmessage = (event) => hear(event.data);
  setInterval(() => port.postMessage("here"), 20_000);
  addEventListener("pagehide", () => port.postMessage("bye"));
  addEventListener("pageshow", () => port.postMessage("here"));
}

/** Call listener(message) until the returned function is called. */
export function listen(listener) {
  listeners.add(listener);
  listener({ kind: "state", state });
  return () => listeners.delete(listener);
}

/** Run work(), then again whenever it is asked for meanwhile; never twice at once. */
export function single(work) {
  let running = false;
  let again = false;
  return async function run() {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      do {
        again = false;
        await work();
      } while (again);
    } finally {
      running = false;
    }
  };
}
