// Each client a dot at its metric, in a row for its group; how many stand together shows how many there are.
import { canvasPanel } from "../canvas.js";
import { color } from "../charts.js";
import { card, figures, table } from "../dom.js";
import { metricName, metricText } from "../format.js";

const ROW = 84;
const TOP = 18;
const AXIS = 24;

export function beeswarm(run) {
  let groups = [];
  let dots = [];
  let metric = "metric";
  const element = card("Clients by group");
  const panel = canvasPanel({
    label: "Each client's metric in the latest round, in a row for its group",
    height: () => Math.max(groups.length, 1) * ROW + TOP + AXIS,
    draw,
    under: (x, y) => {
      const dot = near(x, y);
      return dot && `client ${dot.client}\n${metricText(dot.value, metric)}`;
    },
    click: (x, y) => {
      const dot = near(x, y);
      if (dot) location.assign(`/runs/${run}/clients/${dot.client}`);
    },
  });
  const rows = figures("Clients by group", () => table("Clients by group", [
    ["Group", (row) => row.name], ["Clients", (row) => String(row.values.length), "number"],
    ["Lowest", (row) => metricText(row.values[0]?.value, metric), "number"],
    ["Median", (row) => metricText(row.values[Math.floor(row.values.length / 2)]?.value, metric), "number"],
    ["Highest", (row) => metricText(row.values.at(-1)?.value, metric), "number"],
  ], groups));
  element.append(panel.element, rows.element);

  const near = (x, y) => {
    let best = null;
    let least = 64;
    for (const dot of dots) {
      const distance = (dot.x - x) ** 2 + (dot.y - y) ** 2;
      if (distance < least) [best, least] = [dot, distance];
    }
    return best;
  };

  function draw(context, width) {
    const all = groups.flatMap((group) => group.values);
    context.fillStyle = color("muted");
    dots = [];
    if (!all.length) {
      context.fillText("Clients stand here once they have measured something.", 4, 30);
      return;
    }
    let low = Math.min(...all.map((one) => one.value));
    let high = Math.max(...all.map((one) => one.value));
    if (low === high) [low, high] = metric === "accuracy" ? [low - 0.1, Math.min(high + 0.1, 1)] : [low * 0.9, high * 1.1];
    const place = (value) => 10 + ((width - 20) * (value - low)) / (high - low || 1);
    const size = all.length > 2000 ? 1.5 : all.length > 300 ? 2.2 : 4;
    groups.forEach((group, row) => swarm(context, group, TOP + row * ROW, place, size, width));
    context.fillStyle = color("muted");
    const bottom = TOP + groups.length * ROW + AXIS / 2;
    [["left", low, 4], ["center", (low + high) / 2, width / 2], ["right", high, width - 4]].forEach(([align, value, x]) => {
      context.textAlign = align;
      context.fillText(metricText(value, metric), x, bottom);
    });
    context.textAlign = "left";
  }

  function swarm(context, group, top, place, size, width) {
    context.fillStyle = color("muted");
    context.textAlign = "left";
    context.fillText(group.name, 4, top);
    const middle = top + 14 + (ROW - 22) / 2;
    context.fillStyle = color("rule");
    context.fillRect(4, middle, width - 8, 1);
    const stacks = new Map();
    const room = Math.max(Math.floor((ROW - 26) / (2 * size)), 1);
    context.fillStyle = color("accent");
    context.globalAlpha = 0.75;
    for (const { client, value } of group.values) {
      const x = place(value);
      const bin = Math.round(x / (2 * size));
      const seat = stacks.get(bin) ?? 0;
      stacks.set(bin, seat + 1);
      // One above the line, one below, and so on; a full stack goes on beside itself.
      const level = seat % room;
      const away = Math.ceil(level / 2) * 2 * size;
      const column = Math.floor(seat / room);
      const aside = Math.ceil(column / 2) * 2 * size * (column % 2 ? -1 : 1);
      const seen = Math.min(Math.max(x + aside, size), width - size);
      const y = middle + (level % 2 ? -away : away);
      context.beginPath();
      context.arc(seen, y, size, 0, 7);
      context.fill();
      dots.push({ x: seen, y, client, value });
    }
    context.globalAlpha = 1;
    const median = group.values[Math.floor(group.values.length / 2)].value;
    context.fillStyle = color("ink");
    context.fillRect(place(median) - 1, middle - 14, 2, 28);
  }

  return {
    element,
    start: panel.redraw,
    update(history, clients, round) {
      metric = history.facts.metric;
      element.querySelector("h2").textContent = `${metricName(metric)} of each client, by group${round ? `, round ${round.round}` : ""}`;
      const names = new Map(clients.id.map((id, place) => [id, clients.group[place]]));
      const found = new Map([...new Set(clients.group)].map((name) => [name, []]));
      round?.client.forEach((client, place) => {
        if (round.metric[place] !== null) found.get(names.get(client))?.push({ client, value: round.metric[place] });
      });
      groups = [...found].map(([name, values]) => ({ name, values: values.sort((a, b) => a.value - b.value) })).filter((group) => group.values.length);
      groups.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
      panel.redraw();
      rows.redraw();
    },
  };
}
