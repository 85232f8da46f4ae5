// The device behind a client: who it is, and its temperature and load over time.
import { get } from "../api.js";
import { lineChart } from "../charts.js";
import { card, fill, h } from "../dom.js";
import { ago, bytes, duration, percent } from "../format.js";

const degrees = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(1)} °C`);
const share = (value) => (value === null || value === undefined ? "–" : percent(value / 100));

export function deviceCard(run, device) {
  const facts = h("dl", { class: "facts" });
  const heat = lineChart({ label: "Temperature of the board", format: degrees, height: 150, time: true, xName: "at", series: [{ name: "temperature", tone: "orange" }] });
  const load = lineChart({ label: "Load of the processor", format: share, tick: (value) => `${value} %`, height: 150, time: true, xName: "at", fromZero: true, series: [{ name: "CPU", tone: "accent" }] });
  const hot = h("div", {}, ...heat.elements);
  const element = card(`Device ${device}`, { class: "wide" }, facts, h("div", { class: "grid inner" }, h("div", {}, ...load.elements), hot));
  return {
    element,
    async update(now) {
      const rows = [["Board", now.board || "–"], ["System", [now.system, now.machine].filter(Boolean).join(", ") || "–"], ["Address", now.address], ["Last seen", now.connected ? ago(now.last_seen) : `${ago(now.last_seen)}; ${now.reason}`],
        ["Memory free", `${bytes(now.memory)} of ${bytes(now.memory_total)}`], ["Agent's memory", bytes(now.rss)], ["Disk free", bytes(now.disk_free)], ["Temperature", degrees(now.temperature)],
        ["Throttled", now.throttled === null ? "–" : now.throttled ? "yes" : "no"], ["Power", now.power === null ? "–" : `${now.power.toFixed(1)} W`], ["Up for", duration(now.uptime)], ["Version", `${now.version}, ${now.trainer}`], ["Work", now.work || "idle"]];
      fill(facts, rows.map(([name, value]) => h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, value))));
      const samples = await get(`/runs/${run}/devices/${device}`);
      const times = samples.map((sample) => sample.time);
      load.set(times, [samples.map((sample) => sample.cpu)]);
      hot.hidden = samples.every((sample) => sample.temperature === null); // a board that does not tell
      if (!hot.hidden) heat.set(times, [samples.map((sample) => sample.temperature)]);
    },
  };
}
