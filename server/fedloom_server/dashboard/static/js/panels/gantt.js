// Where a round's time went, client by client: waiting, download, training, upload; then aggregation.
import { canvasPanel } from "../canvas.js";
import { color } from "../charts.js";
import { badge, card, figures, h, table } from "../dom.js";
import { duration } from "../format.js";

const MOST = 18;
const ROW = 17;
const LEFT = 64;
const AXIS = 24;
const PARTS = [["wait", "sunk", "wait"], ["download", "orange", "download"], ["train", "accent", "train"], ["upload", "green", "upload"], ["aggregate", "violet", "aggregate"]];

export function gantt() {
  let rows = [];
  let span = 1;
  let aggregate = 0;
  const element = card("Time of the round");
  const note = h("p", { class: "note" });
  const legend = h("ul", { class: "legend" });
  const partsOf = (row) => [["wait", row.wait], ["download", row.download], ["train", row.train], ["upload", row.upload]];
  const panel = canvasPanel({
    label: "When each client waited, trained and sent in the latest round",
    height: () => Math.max(rows.length, 3) * ROW + AXIS,
    draw,
    under: (_, y) => {
      const row = rows[Math.floor(y / ROW)];
      return row && [`client ${row.client}: ${row.status}`, ...partsOf(row).filter(([, value]) => value > 0).map(([name, value]) => `${name} ${duration(value)}`)].join("\n");
    },
  });
  const list = figures("Time of each client in the round", () => table("Time of each client in the round", [
    ["Client", (row) => String(row.client)], ["Status", (row) => badge(row.status)],
    ...["wait", "download", "train", "upload"].map((name) => [name, (row) => duration(row[name]), "number"]),
  ], rows));
  element.append(legend, panel.element, note, list.element);

  function draw(context, width, height) {
    const wide = width - LEFT - 8;
    const at = (seconds) => (seconds / span) * wide;
    context.fillStyle = color("muted");
    if (!rows.length) {
      context.fillText("The first round's times stand here once it is finished.", 4, 30);
      return;
    }
    rows.forEach((row, place) => {
      const y = place * ROW;
      context.textAlign = "right";
      context.fillStyle = color(row.status === "ok" ? "muted" : row.status === "failed" ? "red" : "violet");
      context.fillText(`${row.status === "ok" ? "" : row.status === "failed" ? "✕ " : "⊘ "}${row.client}`, LEFT - 8, y + ROW / 2);
      let x = LEFT;
      for (const [name, seconds] of partsOf(row)) {
        context.fillStyle = color(PARTS.find(([part]) => part === name)[1] === "sunk" ? "rule" : PARTS.find(([part]) => part === name)[1]);
        const size = at(seconds);
        if (seconds > 0) context.fillRect(x, y + 3, Math.max(size, 1), ROW - 6);
        x += size;
      }
    });
    if (aggregate) {
      context.fillStyle = color("violet");
      context.fillRect(LEFT + at(span - aggregate), 0, Math.max(at(aggregate), 2), rows.length * ROW);
    }
    context.fillStyle = color("muted");
    [0, 0.5, 1].forEach((share) => {
      context.textAlign = ["left", "center", "right"][share * 2];
      context.fillText(share ? duration(span * share) : "0", LEFT + wide * share, height - AXIS / 2);
    });
    context.textAlign = "left";
  }

  return {
    element,
    start: panel.redraw,
    update(history, clients, round) {
      if (!round) return;
      element.querySelector("h2").textContent = `Time of round ${round.round}, client by client`;
      const place = history.rounds.number.indexOf(round.round);
      aggregate = history.rounds.aggregate_seconds[place] ?? 0;
      const all = round.client.map((client, i) => {
        const [train, download, upload] = [round.seconds[i] ?? 0, round.download_seconds[i] ?? 0, round.upload_seconds[i] ?? 0];
        const finished = round.finished[i] ?? train + download + upload;
        return { client, status: round.status[i] ?? "ok", finished, train, download, upload, wait: Math.max(finished - train - download - upload, 0) };
      }).filter((_, i) => round.status[i]);
      span = Math.max(...all.map((row) => row.finished), 0.001) + aggregate;
      const bad = (row) => (row.status === "ok" ? 0 : 1);
      rows = all.sort((a, b) => bad(b) - bad(a) || b.train - a.train).slice(0, MOST);
      const used = PARTS.filter(([name]) => name === "wait" || name === "train" || (name === "aggregate" && aggregate) || rows.some((row) => row[name] > 0));
      legend.replaceChildren(...used.map(([, tone, title]) => h("li", {}, h("i", { class: `block tone-${tone}` }), title)));
      note.textContent = all.length > rows.length ? `Failed ones and the slowest ${rows.length} of ${all.length} clients; the wait is the time until a client's turn came.` : "The wait is the time until a client's turn came.";
      panel.redraw();
      list.redraw();
    },
  };
}
