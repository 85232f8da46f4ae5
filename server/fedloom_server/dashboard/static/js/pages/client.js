// One client over the whole run.
import { get } from "../api.js";
import { lineChart } from "../charts.js";
import { controls } from "../control.js";
import { badge, card, fill, h, table } from "../dom.js";
import { bytes, count, duration, figure, metricName, metricText, percent } from "../format.js";
import { listen, single } from "../live.js";
import { deviceCard } from "../panels/device.js";
import { eventLine } from "../panels/troubles.js";

export async function show(main, run, number) {
  const [first, start] = await Promise.all([get(`/runs/${run}/clients/${number}`), get(`/runs/${run}`)]);
  const metric = start.facts.metric;
  document.title = `${first.name} · ${start.name} · fedloom`;
  const accuracy = lineChart({ label: `${metricName(metric)} on the client's validation part`, format: (value) => metricText(value, metric), bounded: metric === "accuracy",
    tick: metric === "accuracy" ? (value) => `${+(100 * value).toFixed(1)} %` : undefined, series: [{ name: first.name, tone: "accent" }, { name: "global, test set", tone: "grey", dashed: true }] });
  const loss = lineChart({ label: "The client's loss", format: figure, series: [{ name: "training", tone: "orange" }, { name: "validation", tone: "green" }] });
  const norm = lineChart({ label: "The client's gradient norm", format: figure, height: 170, series: [{ name: "gradient norm", tone: "accent" }, { name: "update norm", tone: "violet" }] });
  const time = lineChart({ label: "The client's time", format: duration, height: 170, fromZero: true, series: [{ name: "training time", tone: "accent" }, ...(first.device ? [{ name: "download", tone: "orange" }, { name: "upload", tone: "green" }] : [])] });
  const tiles = h("dl", { class: "tiles" });
  const feed = h("ul", { class: "feed" });
  const body = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rounds of this client" });
  const control = controls(run, () => load());
  const state = h("span");
  const board = first.device && deviceCard(run, first.device.id);
  const scroll = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Events of this client" }, feed);
  fill(main,
    h("div", { class: "head" }, h("div", { class: "title" }, h("p", { class: "crumb" }, h("a", { href: "/" }, "Runs"), " / ", h("a", { href: `/runs/${run}` }, start.name), " / ", h("a", { href: `/runs/${run}/clients` }, "Clients")),
      h("div", { class: "line" }, h("h1", {}, first.device ? `${first.name}, ${first.device.id}` : first.name), state, first.attacker && badge("warning", "attacker")), h("p", { class: "sub" }, `${count(first.examples)} examples to train on, ${count(first.validation)} to validate on`)), h("div", {}, control.element, control.said)),
    tiles,
    h("div", { class: "grid" }, card(metricName(metric), {}, ...accuracy.elements), card("Loss", {}, ...loss.elements), card("Norms", {}, ...norm.elements), card("Time", {}, ...time.elements), board?.element,
      card("Rounds", {}, body), card("What happened", {}, scroll), first.labels && card("Its examples by class", { class: "wide" }, classes(first, start.facts.class_names))));

  function draw(client, history) {
    const { train, evaluate } = client;
    const rounds = [...new Set([...train.round, ...evaluate.round])].sort((a, b) => a - b);
    const pick = (part, name) => rounds.map((round) => part[name][part.round.indexOf(round)] ?? null);
    accuracy.set(rounds, [pick(evaluate, "metric"), rounds.map((round) => history.rounds.metric[history.rounds.number.indexOf(round)] ?? null)]);
    loss.set(rounds, [pick(train, "loss"), pick(evaluate, "loss")]);
    norm.set(rounds, [pick(train, "gradient_norm"), rounds.map((round) => train.update_norm?.[train.round.indexOf(round)] ?? null)]);
    time.set(rounds, ["seconds", "download_seconds", "upload_seconds"].slice(0, first.device ? 3 : 1).map((name) => pick(train, name)));
    board?.update(client.device).catch(() => {});
    const bad = train.status.filter((status) => status !== "ok").length;
    const tile = (title, value, note = "", kind = "") => h("div", { class: `tile ${kind}` }, h("dt", {}, title), h("dd", {}, value, h("small", {}, note || "\u00a0")));
    fill(tiles, tile(metricName(metric), metricText(evaluate.metric.at(-1), metric), "validation part"), tile("Training loss", figure(train.loss.at(-1))),
      tile("Asked in", count(train.round.length), `of ${count(Math.max(history.round, 0))} rounds`), tile("Usable", train.round.length ? percent(1 - bad / train.round.length) : "–", bad ? `${bad} failed or refused` : "none failed", bad ? "bad" : ""),
      tile("Time a round", duration(train.seconds.at(-1))), tile("Sent", bytes(train.bytes_up.reduce((sum, n) => sum + n, 0))));
    fill(state, client.excluded ? badge("interrupted", "excluded") : null);
    const lines = client.events.map((event) => eventLine({ ...event, client: null })).filter(Boolean);
    fill(feed, lines.length ? lines : h("li", {}, h("span", {}, "–"), h("span", { class: "note" }, "Nothing out of the ordinary.")));
    fill(body, table("Rounds of this client", [["Round", (i) => String(train.round[i]), "number"], ["Status", (i) => badge(train.status[i])], ["Loss", (i) => figure(train.loss[i]), "number"],
      ["Time", (i) => duration(train.seconds[i]), "number"], ["Reason", (i) => train.reason[i] || "–", "reason"]], train.round.map((_, i) => i).reverse().slice(0, 200)));
    const shown = history.actions.filter((action) => action === (client.excluded ? "include" : "exclude"));
    control.update(shown, history.commands.filter((command) => command.client === client.id), client.id);
  }
  draw(first, start);
  const load = single(async () => draw(...await Promise.all([get(`/runs/${run}/clients/${number}`), get(`/runs/${run}`)])));
  listen((message) => message.kind === "runs" && message.runs[run] && load().catch(() => {}));
}

function classes(client, names = []) {
  const total = client.labels.reduce((sum, n) => sum + n, 0) || 1;
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Examples by class" }, table("Examples by class", [
    ["Class", ([, k]) => names[k] ?? String(k)], ["Examples", ([n]) => count(n), "number"], ["Share", ([n]) => percent(n / total), "number"],
    ["Amount", ([n]) => {
      const bar = h("span");
      bar.style.width = `${(100 * n) / Math.max(...client.labels)}%`;
      return h("div", { class: "progress" }, bar);
    }],
  ], client.labels.map((n, k) => [n, k])));
}
