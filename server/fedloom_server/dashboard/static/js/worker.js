// Shared by every tab: a browser opens six connections to a host, and each stream would take one for good.
import { follow } from "./stream.js";

const ports = new Map();
let state = { kind: "state", state: "connecting" };
const GONE = 90_000;

onconnect = (event) => {
  const port = event.ports[0];
  ports.set(port, Date.now());
  port.onmessage = (message) => (message.data === "bye" ? ports.delete(port) : ports.set(port, Date.now()));
  port.postMessage(state);
};

follow((message) => {
  if (message.kind === "state") state = message;
  for (const [port, seen] of ports) {
    // A tab that crashed says no good-bye; it would be kept here for ever.
    if (Date.now() - seen > GONE) ports.delete(port);
    else port.postMessage(message);
  }
});
