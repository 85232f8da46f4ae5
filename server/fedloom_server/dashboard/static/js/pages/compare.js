// Two to six runs side by side, and where their settings differ.
import { get } from "../api.js";
import { lineChart } from "../charts.js";
import { badge, card, empty, fill, h, table } from "../dom.js";
import { bytes, duration, figure, metricName, metricText } from "../format.js";

const TONES = ["accent", "orange", "green", "violet", "red", "grey"];
const MOST = 6;

export async function show(main) {
  const runs = (await get("/runs")).filter((run) => run.status !== "unreadable");
  const asked = (new URLSearchParams(location.search).get("runs") ?? "").split(",").filter((id) => runs.some((run) => run.id === id));
  const chosen = new Set(asked.length ? asked : runs.slice(0, 2).map((run) => run.id));
  const body = h("div", { class: "stack" });
  const said = h("p", { class: "note", role: "status" });
  const boxes = runs.map((run) => {
    const box = h("input", { type: "checkbox", checked: chosen.has(run.id), onchange: () => {
      if (box.checked && chosen.size >= MOST) box.checked = false;
      chosen[box.checked ? "add" : "delete"](run.id);
      history.replaceState(null, "", `/compare?runs=${[...chosen].join(",")}`);
      draw();
    } });
    return h("label", {}, box, run.name);
  });
  const draw = async () => {
    said.textContent = `${chosen.size} of at most ${MOST} chosen`;
    if (chosen.size < 2) return fill(body, empty("Choose two runs", "Their curves stand side by side, with the settings that differ."));
    return fill(body, drawn(await get(`/compare?runs=${[...chosen].join(",")}`)));
  };
  fill(main, h("div", { class: "head" }, h("div", { class: "title" }, h("h1", {}, "Compare"))),
    runs.length < 2 ? empty("Nothing to compare", "There are fewer than two runs in the watched folders.")
      : h("div", { class: "stack" }, card("Runs", {}, h("div", { class: "choices", role: "group", "aria-label": "Runs to compare" }, boxes), said), body));
  if (runs.length >= 2) await draw();
}

function drawn({ runs, differences, same }) {
  const metric = runs[0].metric;
  const series = runs.map((run, place) => ({ name: run.name, tone: TONES[place], dashed: place % 2 === 1 }));
  const curve = (title, name, format, tick) => {
    const chart = lineChart({ label: `${title} of each run`, format, tick, series });
    const x = [...new Set(runs.flatMap((run) => run.rounds.number))].sort((a, b) => a - b);
    const made = card(title, {}, ...chart.elements);
    const columns = runs.map((run) => x.map((number) => run.rounds[name][run.rounds.number.indexOf(number)] ?? null));
    requestAnimationFrame(() => chart.set(x, columns));
    return made;
  };
  const last = (run, name) => run.rounds[name].at(-1);
  const sum = (run, name) => run.rounds[name].reduce((total, value) => total + (value ?? 0), 0);
  const region = (label, child) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, child);
  const percentTick = metric === "accuracy" ? (value) => `${+(100 * value).toFixed(1)} %` : undefined;
  return [
    card("Results", {}, region("Results", table("Results", [
      ["Run", (run) => h("a", { href: `/runs/${run.id}` }, run.name)], ["Status", (run) => badge(run.status)], ["Rounds", (run) => String(Math.max(last(run, "number") ?? 0, 0)), "number"],
      [metricName(metric), (run) => metricText(last(run, "metric"), run.metric), "number"], ["Worst 5 %", (run) => metricText(last(run, "worst_metric"), run.metric), "number"],
      ["Loss", (run) => figure(last(run, "loss")), "number"], ["Traffic up", (run) => bytes(sum(run, "bytes_up")), "number"], ["Duration", (run) => duration(run.seconds), "number"],
    ], runs))),
    h("div", { class: "grid" }, curve(metricName(metric), "metric", (value) => metricText(value, metric), percentTick), curve("Test loss", "loss", figure)),
    card("Where their settings differ", {}, differences.length ? region("Settings that differ", table("Settings that differ", [
      ["Setting", (row) => h("code", {}, row.key)], ...runs.map((run, place) => [run.name, (row) => row.values[place] ?? "–"]),
    ], differences)) : h("p", { class: "note" }, "They do not."), h("p", { class: "note" }, `${same} more settings are the same in all of them.`)),
  ];
}
