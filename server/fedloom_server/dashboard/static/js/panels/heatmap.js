// Every client x every round: a byte a cell, painted as one picture and stretched to the box.
import { get } from "../api.js";
import { canvasPanel, ramp, rgb } from "../canvas.js";
import { color } from "../charts.js";
import { card, fill, figures, h, table } from "../dom.js";
import { count, duration, figure, metricName, metricText } from "../format.js";
import { single } from "../live.js";

const LEFT = 46;
const BOTTOM = 22;
const MISSING = 255;
const STATUS = ["not asked", "ok", "failed", "rejected"];
const TALLEST = 380;

export function heatMap(run) {
  let metric = "metric";
  let chosen = "metric";
  let data = null; // {rounds, rows: [Uint8Array per row], low, high, clients, share, first}
  let picture = null;
  const values = () => [["metric", metricName(metric)], ["train_loss", "Training loss"], ["seconds", "Time"], ["status", "Status"]];
  const text = (value) => chosen === "seconds" ? duration(value) : chosen === "metric" ? metricText(value, metric) : figure(value);
  const element = card("Every client, every round", { class: "wide" });
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "Figure shown" });
  const scale = h("div", { class: "scale" });
  element.tools.append(scale, tabs);
  const where = (x, y) => {
    if (!data?.rounds.length) return null;
    const column = Math.floor(((x - LEFT) / (panel.element.clientWidth - LEFT - 2)) * data.rounds.length);
    const row = Math.floor((y / (panel.canvas.clientHeight - BOTTOM)) * data.rows);
    return column >= 0 && column < data.rounds.length && row >= 0 && row < data.rows ? [row, column] : null;
  };
  const name = (row) => data.share === 1 ? `client ${data.first[row]}` : `clients ${data.first[row]} to ${Math.min(data.first[row] + data.share, data.clients) - 1}`;
  const valueAt = (row, column) => data.columns[column][row];
  const cellText = (byte) => chosen === "status" ? STATUS[byte] : byte === MISSING ? "not measured" : text(data.low + (byte / 254) * (data.high - data.low));
  const panel = canvasPanel({
    label: "Heat map of every client in every round; choose a client below for its exact figures",
    height: () => (data?.rounds.length ? Math.max(Math.min(data.rows * 16, TALLEST), 90) : 40) + BOTTOM,
    draw,
    under(x, y) {
      const cell = where(x, y);
      return cell && `${name(cell[0])}, round ${data.rounds[cell[1]]}\n${data.share > 1 && chosen !== "status" ? "mean " : ""}${cellText(valueAt(...cell))}`;
    },
    click(x, y) {
      const cell = where(x, y);
      if (cell) location.assign(`/runs/${run}/clients${data.share === 1 ? `/${data.first[cell[0]]}` : `?from=${data.first[cell[0]]}`}`);
    },
  });
  const rows = figures("The latest rounds of every client", () => {
    const shown = data.rounds.slice(-8);
    return table("The latest rounds of every client", [["Client", (row) => name(row)], ...shown.map((round) =>
      [`Round ${round}`, (row) => cellText(valueAt(row, data.rounds.indexOf(round))), "number"])], [...Array(Math.min(data.rows, 200)).keys()]);
  });
  const note = h("p", { class: "note" });
  element.append(panel.element, note, rows.element);

  function draw(context, width, height) {
    const wide = width - LEFT - 2;
    const tall = height - BOTTOM;
    context.fillStyle = color("muted");
    if (!data?.rounds.length) {
      context.fillText("After the first round every client has a cell here.", LEFT, 30);
      return;
    }
    picture = paint(picture);
    context.imageSmoothingEnabled = data.rounds.length > wide;
    context.drawImage(picture, LEFT, 0, wide, tall);
    context.textAlign = "right";
    const step = Math.max(Math.ceil(data.rows / Math.max(Math.floor(tall / 34), 1)), 1);
    for (let row = 0; row < data.rows; row += step) context.fillText(String(data.first[row]), LEFT - 8, ((row + 0.5) / data.rows) * tall);
    context.textAlign = "center";
    const skip = Math.max(Math.ceil(data.rounds.length / Math.max(Math.floor(wide / 60), 1)), 1);
    for (let column = 0; column < data.rounds.length; column += skip) context.fillText(String(data.rounds[column]), LEFT + ((column + 0.5) / data.rounds.length) * wide, tall + 12);
  }

  function paint(before) {
    const canvas = before ?? document.createElement("canvas");
    canvas.width = data.rounds.length;
    canvas.height = data.rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const palette = colours();
    for (let row = 0; row < data.rows; row += 1) {
      for (let column = 0; column < canvas.width; column += 1) {
        const at = 4 * (row * canvas.width + column);
        const paintOf = palette[valueAt(row, column)];
        if (paintOf) image.data.set([...paintOf, 255], at);
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  function colours() {
    const parse = (token) => color(token).match(/[\d.]+/g).slice(0, 3).map(Number);
    if (chosen === "status") return [null, parse("heat-high"), parse("red"), parse("violet")];
    const at = ramp(color("heat-low"), color("heat-high"));
    return [...Array(255)].map((_, byte) => at(byte / 254));
  }

  function describe() {
    fill(tabs, values().map(([key, title]) => h("button", { "aria-pressed": String(key === chosen), onclick: () => choose(key) }, title)));
    if (!data) return;
    const bar = h("canvas", { width: 90, height: 9, "aria-hidden": "true" });
    const context = bar.getContext("2d");
    const at = ramp(color("heat-low"), color("heat-high"));
    for (let x = 0; x < 90; x += 1) {
      context.fillStyle = rgb(at(x / 89));
      context.fillRect(x, 0, 1, 9);
    }
    fill(scale, chosen === "status"
      ? [h("ul", { class: "legend" }, h("li", {}, h("i", { class: "block tone-accent" }), "ok"), h("li", {}, h("i", { class: "block tone-red" }), "failed"), h("li", {}, h("i", { class: "block tone-violet" }), "rejected"))]
      : [text(data.low), bar, text(data.high)]);
    note.textContent = data.share === 1 ? `${count(data.clients)} clients, one row each; choose a cell for the client's own page.`
      : `${count(data.clients)} clients, ${data.share} to a row; choose a row to see each of them.`;
  }

  const choose = (key) => {
    chosen = key;
    data = null;
    update();
  };

  const update = single(async () => {
    const asked = chosen;
    const got = await get(`/runs/${run}/matrix?value=${asked}&rows=512&after_round=${data?.rounds.at(-1) ?? 0}`);
    if (asked !== chosen) return;
    const cells = Uint8Array.from(atob(got.cells), (letter) => letter.charCodeAt(0));
    const rows = got.first_clients.length;
    const columns = got.rounds.map((_, column) => Uint8Array.from({ length: rows }, (_, row) => cells[row * got.rounds.length + column]));
    // A new round may lie outside the range that older cells were scaled to: ask for all of them anew.
    if (data && (got.low !== data.low || got.high !== data.high) && got.rounds.length) {
      data = null;
      return update();
    }
    data = { rounds: [...(data?.rounds ?? []), ...got.rounds], columns: [...(data?.columns ?? []), ...columns], rows, low: got.low, high: got.high, clients: got.clients, share: got.clients_per_row, first: got.first_clients };
    describe();
    panel.redraw();
    rows_redraw();
  });
  const rows_redraw = () => rows.redraw();
  describe();
  return { element, start: panel.redraw, update: (history) => ((metric = history.facts.metric), update()) };
}
