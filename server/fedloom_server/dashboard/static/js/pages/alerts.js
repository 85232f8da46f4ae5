// What an operator should look at, over all runs.
import { get } from "../api.js";
import { card, empty, fill, h } from "../dom.js";
import { listen, single } from "../live.js";
import { alertLine } from "../panels/troubles.js";

export async function show(main) {
  const body = h("div", { "aria-live": "polite" });
  const load = single(async () => {
    const alerts = await get("/alerts");
    fill(body, alerts.length ? card(`${alerts.length} to look at`, {}, h("div", { class: "stack" }, alerts.map((alert) => alertLine(alert, " ", h("a", {
      href: alert.client === null ? `/runs/${alert.run}` : `/runs/${alert.run}/clients/${alert.client}`, "aria-label": `${alert.title}: ${alert.name}` }, alert.name)))))
      : empty("All quiet", "No loss that is not a number, no stalled or failed run, no client refused again and again, no hot device."));
  });
  await load();
  fill(main, h("div", { class: "head" }, h("div", { class: "title" }, h("h1", {}, "Alerts"), h("p", { class: "sub" }, "Over every watched run, the critical ones first"))), body);
  listen((message) => message.kind === "runs" && load().catch(() => {}));
  setInterval(() => load().catch(() => {}), 10_000);
}
