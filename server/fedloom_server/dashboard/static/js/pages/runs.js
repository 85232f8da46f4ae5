// Every run: where it stands, its curve, and when it will be done.
import { get } from "../api.js";
import { sparkline } from "../charts.js";
import { badge, empty, fill, h } from "../dom.js";
import { ago, count, duration, figure, metricName, metricText, plural } from "../format.js";
import { listen, single } from "../live.js";

export async function show(main) {
  const list = h("div", { class: "run-list" });
  const sub = h("p", { class: "sub" });
  const load = single(async () => {
    const runs = await get("/runs");
    const live = runs.filter((run) => ["running", "paused"].includes(run.status)).length;
    sub.textContent = runs.length ? `${plural(runs.length, "run")}, ${live} of them live` : "";
    fill(list, runs.length ? runs.map(row) : empty("No run yet", "A run that is started in the watched folder appears here by itself.", h("code", {}, "fedloom simulate digits --clients 10 --rounds 15")));
  });
  await load();
  fill(main, h("div", { class: "head" }, h("div", { class: "title" }, h("h1", {}, "Runs"), sub)), list);
  let due = null;
  listen((message) => {
    if (message.kind === "state" && message.state !== "live") return;
    // Many runs may change at once; the list is asked for twice a second at most.
    due ??= setTimeout(() => {
      due = null;
      load().catch(() => {});
    }, 500);
  });
}

const figureOf = (title, value, note) => h("dl", { class: "figure" }, h("dt", {}, title), h("dd", {}, value), note && h("dd", { class: "note" }, note));

function row(run) {
  if (run.status === "unreadable") {
    return h("article", { class: "card run-card" }, h("div", { class: "what" }, h("h2", {}, run.name), badge(run.status), h("p", { class: "note" }, run.reason)));
  }
  const share = run.planned ? Math.max(run.round, 0) / run.planned : 0;
  const bar = h("span");
  bar.style.width = `${100 * share}%`;
  const live = ["running", "paused"].includes(run.status);
  return h("article", { class: "card run-card", "data-run": run.id },
    h("div", { class: "what" }, h("h2", {}, h("a", { href: `/runs/${run.id}` }, run.name)),
      h("p", { class: "note" }, `${run.task} · ${run.strategy} · ${run.partition} · ${plural(run.clients, "client")} · seed ${run.seed}`)),
    h("div", { class: "going" }, h("div", { class: "head-line" }, badge(run.status), h("span", { class: "note" }, `  round ${count(Math.max(run.round, 0))} of ${count(run.planned)}`)),
      h("div", { class: "progress", "data-status": run.status }, bar),
      h("p", { class: "note" }, live ? (run.eta === null ? "" : `${duration(run.eta)} left`) : run.reason || `took ${duration(run.seconds)}`)),
    h("div", { class: "spark-box" }, sparkline(run.sparkline, `${metricName(run.metric)} over the rounds, now ${metricText(run.value, run.metric)}`)),
    figureOf(metricName(run.metric), metricText(run.value, run.metric)),
    figureOf("Loss", figure(run.loss)),
    figureOf("Failed, refused", `${count(run.failed)}, ${count(run.rejected)}`),
    h("p", { class: "note" }, ago(run.last_seen)));
}
