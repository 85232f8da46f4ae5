// One run, live: figures, curves, clients, time, and what may be asked of it.
import { get } from "../api.js";
import { lineChart } from "../charts.js";
import { controls } from "../control.js";
import { badge, card, fill, h } from "../dom.js";
import { ago, bytes, count, duration, figure, known, metricName, metricText, percent, plural } from "../format.js";
import { historyOf } from "../history.js";
import { listen, single } from "../live.js";
import { beeswarm } from "../panels/beeswarm.js";
import { gantt } from "../panels/gantt.js";
import { heatMap } from "../panels/heatmap.js";
import { labels } from "../panels/labels.js";
import { norms } from "../panels/norms.js";
import { picturesCard } from "../panels/pictures.js";
import { privacyCard } from "../panels/privacy.js";
import { alertsCard, eventsCard, failuresCard, slowestCard } from "../panels/troubles.js";

const SLOW = 1000; // ms between two readings of what is beside the curves
const WORDS = 3000; // and of what is in words

export async function show(main, run) {
  const load = historyOf(run);
  let history = await load();
  document.title = `${history.name} · fedloom`;
  const head = header(run, () => refresh());
  const curves = curveCards(history.facts.metric);
  const panels = [heatMap(run), beeswarm(run), gantt(), norms(run), labels(run), slowestCard(run)];
  const [map, swarm, time, norm, label, slow] = panels;
  const alerts = alertsCard(run);
  const failures = failuresCard(run);
  const events = eventsCard();
  const privacy = privacyCard();
  const pictures = picturesCard(run);
  fill(main, head.element, h("div", { class: "grid" },
    curves.metric, curves.loss, alerts.element, failures.element, map.element, swarm.element, time.element,
    norm.element, slow.element, curves.participation, curves.traffic, privacy.element, label.element, events.element, pictures.element, downloads(run)));
  let spread = null;
  let clients = null;
  let shown = -1;
  let told = 0;

  const drawCurves = () => {
    head.update(history);
    curves.update(history, spread);
    events.update(history);
    privacy.update(history);
    pictures.update(history);
    main.dataset.round = String(history.round);
  };
  drawCurves();
  for (const panel of panels) panel.start?.();

  const readSpread = async () => {
    const news = await get(`/runs/${run}/spread?after_round=${spread?.number.at(-1) ?? 0}`);
    spread = spread ? { ...spread, number: spread.number.concat(news.number), values: spread.values.map((column, q) => column.concat(news.values[q])) } : news;
  };
  const words = () => {
    told = Date.now();
    return Promise.all([failures.update(), alerts.update()]);
  };
  const readClients = single(async () => {
    if (document.hidden) return;
    if (!clients?.id.length) clients = await get(`/runs/${run}/clients`);
    if (shown === history.round && history.round > 0) return told || words();
    const round = history.round > 0 ? await get(`/runs/${run}/rounds/${history.round}/clients`) : null;
    shown = history.round;
    for (const panel of [swarm, time, norm, label, slow]) panel.update(history, clients, round);
    await map.update(history);
    if (Date.now() - told > WORDS || !history.live) await words();
    await new Promise((resolve) => setTimeout(resolve, SLOW));
  });
  const refresh = single(async () => {
    const { round: before, status } = history;
    history = await load();
    drawCurves();
    if (history.status !== status) told = 0;
    if (history.round !== before || !spread) {
      await readSpread();
      curves.update(history, spread);
    }
    readClients().catch(head.wrong);
    if (history.restart.starting && !history.live) setTimeout(again, SLOW); // nothing is in the store yet
  });
  const again = () => refresh().catch(head.wrong);
  again();
  listen((message) => {
    if (message.kind === "state") head.connection(message.state);
    const news = message.kind === "runs" ? message.runs[run] : undefined;
    if (news === null) head.wrong(new Error("this run's folder is gone"));
    else if (news || (message.kind === "state" && message.state === "live")) again();
  });
  document.addEventListener("visibilitychange", () => document.hidden || again());
  setInterval(() => {
    head.update(history);
    if (history.live) alerts.update().catch(() => {});
  }, 10_000);
}

function header(run, done) {
  const status = h("span");
  const title = h("h1");
  const sub = h("p", { class: "sub" });
  const bar = h("span");
  const progress = h("div", { class: "progress" }, bar);
  const where = h("p", { class: "note" });
  const wrong = h("div");
  const tiles = h("dl", { class: "tiles" });
  const control = controls(run, done);
  let lost = false;
  const element = h("div", {},
    h("div", { class: "head" }, h("div", { class: "title" }, h("p", { class: "crumb" }, h("a", { href: "/" }, "Runs")), h("div", { class: "line" }, title, status), sub),
      h("div", {}, control.element, control.said)),
    h("div", { class: "stack" }, h("div", {}, progress, where), wrong), tiles);
  progress.style.marginBottom = "6px";
  wrong.style.marginBottom = "12px";
  return {
    element,
    wrong: (error) => fill(wrong, lost ? null : h("div", { class: "problem", role: "alert" }, h("strong", {}, "Not up to date: "), error.message)),
    connection(state) {
      lost = state === "lost";
      fill(wrong, lost ? h("div", { class: "problem", role: "alert" }, h("strong", {}, "Connection lost. "), "The run itself is not touched by it. This page goes on by itself when the dashboard is back.") : null);
    },
    update(history) {
      const { facts } = history;
      title.textContent = history.name;
      fill(status, badge(history.status));
      sub.textContent = [facts.task, facts.strategy, facts.partition, plural(facts.clients, "client"), `seed ${facts.seed}`, `${facts.engine} engine`,
        facts.attack && `attack ${facts.attack}`, facts.faults && `faults ${facts.faults}`].filter(Boolean).join(" · ");
      const round = Math.max(history.round, 0);
      const open = history.live && history.progress?.round > round ? history.progress : null;
      const share = (round + (open ? ((open.phase === "train" ? 0 : 0.9) + (open.phase === "train" ? 0.9 : 0.1) * (open.done / open.total)) : 0)) / (history.planned || 1);
      bar.style.width = `${Math.min(100 * share, 100)}%`;
      progress.dataset.status = history.status;
      where.textContent = [`round ${count(round)} of ${count(history.planned)}`, open && `${open.phase === "train" ? "training" : "evaluating"}: ${count(open.done)} of ${count(open.total)} clients`,
        history.live ? history.eta !== null && `about ${duration(history.eta)} left` : history.seconds !== null && `took ${duration(history.seconds)}`,
        `last sign ${ago(history.last_seen)}`, !history.live && facts.reason].filter(Boolean).join(" · ");
      fill(tiles, tilesOf(history));
      control.update(history.actions, history.commands, undefined, history.live ? undefined : history.restart);
    },
  };
}

function tilesOf({ rounds, facts, round: latest }) {
  const last = (name) => rounds[name].at(-1);
  const change = (name) => {
    const [before, after] = rounds[name].filter((value) => value !== null).slice(-2);
    if (after === undefined) return "";
    const by = after - before;
    return facts.metric === "accuracy" ? `${by >= 0 ? "+" : "−"}${Math.abs(100 * by).toFixed(1)} points` : `${by >= 0 ? "+" : "−"}${figure(Math.abs(by))}`;
  };
  const asked = last("clients_ok") + last("clients_failed") + last("rejected");
  const spent = last("epsilon");
  const sum = (name) => rounds[name].reduce((total, value) => total + (value ?? 0), 0);
  const tile = (title, value, note, kind = "") => h("div", { class: `tile ${kind}` }, h("dt", {}, title), h("dd", {}, value, h("small", {}, note || "\u00a0")));
  return [
    tile(`${metricName(facts.metric)}, test set`, metricText(last("metric"), facts.metric), change("metric")),
    tile("Worst 5 % of clients", metricText(last("worst_metric"), facts.metric), "validation parts"),
    tile("Test loss", figure(last("loss")), ""),
    tile("Participation", latest > 0 ? percent(last("clients_ok") / asked) : "–", latest > 0 ? `${count(last("clients_ok"))} of ${count(asked)} clients` : "no round yet"),
    tile("Failed", count(sum("clients_failed")), `${count(last("clients_failed") ?? 0)} in this round`, sum("clients_failed") ? "bad" : ""),
    tile("Refused", count(sum("rejected")), `${count(last("rejected") ?? 0)} in this round`, sum("rejected") ? "odd" : ""),
    tile("Traffic up", bytes(sum("bytes_up")), `down ${bytes(sum("bytes_down"))}`),
    tile("Time a round", latest > 0 ? duration(last("seconds")) : "–", latest > 0 ? `median ${duration(median(rounds.seconds.slice(1)))}` : ""),
    known(spent) && tile("Privacy spent, ε", figure(spent), known(facts.privacy?.budget) ? `of ${figure(facts.privacy.budget)}` : "", spent > facts.privacy?.budget ? "bad" : ""),
  ];
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

function curveCards(metric) {
  const asMetric = (value) => metricText(value, metric);
  const tick = metric === "accuracy" ? (value) => `${+(100 * value).toFixed(1)} %` : undefined;
  const main = lineChart({
    label: `${metricName(metric)} over the rounds: the global model and its spread over clients`, format: asMetric, tick, bounded: metric === "accuracy",
    series: [{ name: "test set", tone: "accent" }, { name: "median client", tone: "grey", dashed: true }, { name: "worst 5 %", tone: "orange" }],
    bands: [[0, 1, "band-wide", "5 to 95 % of clients"], [2, 3, "band", "25 to 75 %"]],
  });
  const loss = lineChart({ label: "Loss over the rounds", format: figure, series: [
    { name: "test set", tone: "accent" }, { name: "training", tone: "orange" }, { name: "clients' validation", tone: "green" }] });
  const part = lineChart({ label: "Clients in each round", format: count, height: 170, fromZero: true, series: [
    { name: "usable", tone: "accent" }, { name: "failed", tone: "red" }, { name: "refused", tone: "violet" }] });
  const traffic = lineChart({ label: "Bytes in each round", format: bytes, tick: bytes, height: 170, fromZero: true, series: [{ name: "up", tone: "accent" }, { name: "down", tone: "orange" }] });
  const make = (title, chart) => card(title, {}, ...chart.elements);
  return {
    metric: make(`${metricName(metric)} and its spread over clients`, main), loss: make("Loss", loss),
    participation: make("Participation", part), traffic: make("Traffic", traffic),
    update({ rounds }, spread) {
      const place = new Map((spread?.number ?? []).map((number, at) => [number, at]));
      const quantile = (q) => rounds.number.map((number) => (place.has(number) ? spread.values[q][place.get(number)] : null));
      main.set(rounds.number, [rounds.metric, quantile(2), rounds.worst_metric, quantile(4), quantile(0), quantile(3), quantile(1)]);
      loss.set(rounds.number, [rounds.loss, rounds.train_loss, rounds.federated_loss]);
      const from = rounds.number[0] === 0 ? 1 : 0;
      const cut = (name) => rounds[name].slice(from);
      part.set(cut("number"), [cut("clients_ok"), cut("clients_failed"), cut("rejected")]);
      traffic.set(cut("number"), [cut("bytes_up"), cut("bytes_down")]);
    },
  };
}

function downloads(run) {
  const names = ["round", "client_round", "client", "event", "run"];
  const link = (name, form) => h("a", { class: "button small", href: `/api/v1/runs/${run}/tables/${name}.${form}`, download: true, "aria-label": `Table ${name} as ${form}` }, form === "csv" ? "CSV" : "Parquet");
  return card("Take it with you", { class: "wide" }, h("div", { class: "choices" },
    names.map((name) => h("span", {}, h("code", {}, name), "  ", link(name, "csv"), " ", link(name, "parquet"))),
    h("p", {}, h("a", { href: `/models#${run}` }, "Models and files of this run"), " · ", h("a", { href: `/runs/${run}/clients` }, "All its clients"), " · ", h("a", { href: "/api/v1/openapi.json" }, "API"))));
}
