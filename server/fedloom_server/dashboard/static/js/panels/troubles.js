// Alerts, failed and slowest clients, and what happened: in words.
import { get } from "../api.js";
import { badge, card, fill, h, table } from "../dom.js";
import { clock, count, duration, plural } from "../format.js";

export function alertsCard(run) {
  const element = card("Alerts");
  const body = h("div", { class: "stack", "aria-live": "polite" });
  element.append(body);
  return {
    element,
    async update() {
      const found = await get(`/alerts?run=${run}`);
      fill(body, found.length ? found.map((alert) => alertLine(alert)) : h("p", { class: "note" }, "Nothing to look at."));
    },
  };
}

export const alertLine = (alert, ...more) => h("div", { class: "alert", "data-severity": alert.severity },
  h("div", {}, badge(alert.severity, alert.title), more), h("p", {}, alert.text));

export function failuresCard(run) {
  const element = card("Failed and refused clients");
  const body = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Failed and refused clients" });
  element.append(body);
  return {
    element,
    async update() {
      const found = await get(`/runs/${run}/failures?limit=50`);
      fill(body, found.length ? table("Failed and refused clients", [
        ["Client", (row) => h("a", { href: `/runs/${run}/clients/${row.client}` }, `client ${row.client}`)],
        ["What", (row) => badge(row.kind), "minor"], ["Times", (row) => count(row.times), "number"], ["Last in round", (row) => String(row.round), "number minor"],
        ["Last reason", (row) => row.reason, "reason"],
      ], found) : h("p", { class: "note" }, "Every client that was asked gave a usable update."));
    },
  };
}

export function slowestCard(run) {
  const element = card("Slowest clients");
  const body = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Slowest clients" });
  element.append(body);
  return {
    element,
    update(history, clients, round) {
      if (!round) return fill(body, h("p", { class: "note" }, "Known after the first round."));
      const rows = round.client.map((client, i) => ({ client, seconds: round.seconds[i], examples: round.examples[i] })).filter((row) => row.seconds !== null);
      rows.sort((a, b) => b.seconds - a.seconds);
      const median = rows[Math.floor(rows.length / 2)]?.seconds;
      return fill(body, table("Slowest clients of the latest round", [
        ["Client", (row) => h("a", { href: `/runs/${run}/clients/${row.client}` }, `client ${row.client}`)],
        ["Time", (row) => duration(row.seconds), "number"], ["Of the median", (row) => `${(row.seconds / median).toFixed(1)} ×`, "number"],
        ["Examples", (row) => count(row.examples), "number"],
      ], rows.slice(0, 8)));
    },
  };
}

const WORDS = {
  started: (event) => `started with ${plural(event.data.clients, "client")}`, finished: () => "finished", failed: (event) => `failed: ${event.data.reason}`,
  interrupted: (event) => `interrupted: ${event.data.reason}`, rejected: (event) => `refused: ${event.data.reason}`, warning: (event) => `warning: ${event.data.reason}`,
  "early-stop": (event) => `stopped early: ${event.data.reason}`, pause: (event) => `paused by ${event.data.who}`, resume: (event) => `goes on, asked by ${event.data.who}`,
  stop: (event) => `stop, asked by ${event.data.who}`, restart: (event) => `started again by ${event.data.who}`,
  secure: (event) => `masks of ${plural(event.data.recovered, "client")} that dropped out were taken off the sum`,
  resumed: () => "resumed", repeated: (event) => `repeated: ${event.data.reason}`, clipped: (event) => `clipped: ${event.data.reason}`, benched: (event) => `not asked for ${plural(event.data.rounds, "round")}: ${event.data.reason}`,
  "device-connected": (event) => `${event.data.device} connected`, "device-disconnected": (event) => `${event.data.device} disconnected: ${event.data.reason}`, "device-refused": (event) => `${event.data.device} was not let in: ${event.data.reason}`,
  exclude: (event) => (event.data.refused ? `not excluded: ${event.data.refused}` : `excluded by ${event.data.who}`), include: (event) => `included again by ${event.data.who}`,
};

/** An event as a line; null for what belongs to every round, of which there are too many to tell. */
export function eventLine(event) {
  if (event.kind === "round" || event.kind === "energy" || (event.kind === "secure" && !event.data.recovered)) return null;
  const words = WORDS[event.kind]?.(event) ?? `${event.kind}${event.data.reason ? `: ${event.data.reason}` : ""}`;
  const who = event.clients ?? [event.client];
  const where = [event.client === null || event.client === undefined ? null : who.length > 1 ? `${who.length} clients (${who.slice(0, 8).join(", ")}${who.length > 8 ? ", …" : ""})` : `client ${event.client}`, event.round === null ? null : event.last > event.round ? `rounds ${event.round} to ${event.last}` : `round ${event.round}`].filter(Boolean).join(", ");
  return h("li", {}, h("time", {}, clock(event.time)), h("span", {}, where && `${where}: `, words));
}

/** Clients that had the same happen to them in the same round make one line. */
function together(events) {
  const groups = new Map();
  for (const event of events) {
    const alike = event.client === null ? event.id : `${event.kind} ${event.round} ${event.data.reason} ${event.data.who}`;
    const group = groups.get(alike);
    if (group) group.clients.push(event.client);
    else groups.set(alike, { ...event, clients: [event.client] });
  }
  // And what goes on round after round makes one, too.
  const runs = [];
  for (const group of groups.values()) {
    const alike = group.client === null ? null : `${group.kind} ${group.data.reason} ${group.clients}`;
    const before = runs.findLast((one) => one.alike === alike);
    if (alike && before && group.round === before.last + 1) {
      Object.assign(before, { last: group.round, time: group.time });
    } else runs.push({ ...group, alike, last: group.round });
  }
  return runs.sort((a, b) => a.time - b.time);
}

export function eventsCard() {
  const element = card("What happened");
  const feed = h("ul", { class: "feed" });
  const body = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Events, the newest first" }, feed);
  element.append(body);
  return {
    element,
    update(history) {
      fill(feed, together(history.events).map(eventLine).filter(Boolean).reverse().slice(0, 60));
      if (!feed.children.length) fill(feed, h("li", {}, h("span", { class: "note" }, "Nothing yet.")));
    },
  };
}
