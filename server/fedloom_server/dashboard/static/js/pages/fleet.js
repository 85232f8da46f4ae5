// Real devices: who they are, when they last said something, and how they are.
import { get } from "../api.js";
import { badge, card, empty, fill, h, table } from "../dom.js";
import { ago, bytes, percent } from "../format.js";
import { listen, single } from "../live.js";

export async function show(main) {
  const body = h("div");
  const load = single(async () => {
    const devices = await get("/devices");
    fill(body, devices.length ? card("Devices", {}, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Devices" }, table("Devices", [
      ["Device", (device) => (device.client === null ? device.id : h("a", { href: `/runs/${device.run}/clients/${device.client}` }, device.id))],
      ["State", (device) => state(device)], ["Last seen", (device) => ago(device.last_seen)], ["Board", (device) => device.board],
      ["Temperature", (device) => (device.temperature === null ? "–" : `${device.temperature.toFixed(0)} °C`), "number"],
      ["Memory free", (device) => `${bytes(device.memory)} of ${bytes(device.memory_total)}`, "number"], ["CPU", (device) => (device.cpu === null ? "–" : percent(device.cpu / 100)), "number"],
      ["Version", (device) => device.version], ["Trainer", (device) => device.trainer], ["Work", (device) => device.work || device.reason || "idle"],
    ], devices))) : empty("No devices", "The watched runs are simulations: their clients live in one process and stand on the run's own page.", "Devices that join a coordinator appear here with board, temperature, memory and version."));
  });
  await load();
  fill(main, h("div", { class: "head" }, h("div", { class: "title" }, h("h1", {}, "Fleet"), h("p", { class: "sub" }, "Devices of every watched run"))), body);
  listen((message) => message.kind === "runs" && load().catch(() => {}));
  setInterval(() => load().catch(() => {}), 5000);
}

function state(device) {
  if (device.throttled) return badge("warning", "throttled");
  if (device.temperature >= 80) return badge("warning", "hot");
  return device.connected ? badge("ok", "connected") : badge("interrupted", "not connected");
}
