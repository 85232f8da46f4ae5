// One EventSource; it comes back by itself, and is made anew where it falls silent or is refused.

const SILENCE = 45_000; // the server says something every 15 s

/** Calls tell({kind: "state" | "runs", ...}) for as long as the page lives. */
export function follow(tell) {
  let source = null;
  let heard = Date.now();
  const connect = () => {
    source?.close();
    source = new EventSource("/api/v1/stream");
    heard = Date.now();
    source.addEventListener("hello", () => {
      heard = Date.now();
      tell({ kind: "state", state: "live" });
    });
    source.addEventListener("ping", () => {
      heard = Date.now();
    });
    source.addEventListener("runs", (event) => {
      heard = Date.now();
      tell({ kind: "runs", ...JSON.parse(event.data) });
    });
    source.addEventListener("error", () => tell({ kind: "state", state: "lost" }));
  };
  connect();
  setInterval(() => {
    if (source.readyState === EventSource.CLOSED || Date.now() - heard > SILENCE) connect();
  }, 2000);
}
