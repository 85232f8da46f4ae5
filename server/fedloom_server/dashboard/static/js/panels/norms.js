// The size of each client's update in the latest round, the guard's line, and who was refused.
import { canvasPanel } from "../canvas.js";
import { color } from "../charts.js";
import { badge, card, figures, h, table } from "../dom.js";
import { figure } from "../format.js";

const HEIGHT = 190;
const LEFT = 48;

export function norms(run) {
  let dots = [];
  let line = null;
  let most = 1;
  let kind = "update_norm";
  const element = card("Update norms");
  const legend = h("ul", { class: "legend" });
  const note = h("p", { class: "note" });
  const x = (place) => LEFT + ((panel.element.clientWidth - LEFT - 8) * (place + 0.5)) / Math.max(dots.length, 1);
  const y = (value) => HEIGHT - 12 - (value / most) * (HEIGHT - 26);
  const panel = canvasPanel({
    label: "Norm of each client's update in the latest round",
    height: HEIGHT,
    draw,
    under: (at) => {
      const dot = dots[Math.floor(((at - LEFT) / (panel.element.clientWidth - LEFT - 8)) * dots.length)];
      return dot && `client ${dot.client}: ${dot.status}\n${figure(dot.value)}${dot.reason ? `\n${dot.reason}` : ""}`;
    },
  });
  const list = figures("Norm of each client", () => table("Norm of each client", [
    ["Client", (dot) => h("a", { href: `/runs/${run}/clients/${dot.client}` }, String(dot.client))], ["Norm", (dot) => figure(dot.value), "number"],
    ["Status", (dot) => badge(dot.status)], ["Reason", (dot) => dot.reason || "–", "reason"],
  ], dots.slice(0, 300)));
  element.append(legend, panel.element, note, list.element);

  function draw(context, width) {
    context.fillStyle = color("muted");
    if (!dots.length) {
      context.fillText("Norms stand here once a client has sent an update.", 4, 30);
      return;
    }
    context.textAlign = "right";
    [0, most / 2, most].forEach((value) => {
      context.fillStyle = color("rule");
      context.fillRect(LEFT, y(value), width - LEFT - 8, 1);
      context.fillStyle = color("muted");
      context.fillText(value.toPrecision(2), LEFT - 8, y(value));
    });
    context.textAlign = "left";
    if (line !== null) {
      context.fillStyle = color("red");
      for (let at = LEFT; at < width - 8; at += 9) context.fillRect(at, y(line), 5, 1.5);
    }
    const size = dots.length > 300 ? 1.8 : 3.5;
    dots.forEach((dot, place) => {
      if (dot.value === null) return;
      context.fillStyle = color(dot.status === "ok" ? "accent" : "violet");
      context.beginPath();
      if (dot.status === "ok") context.arc(x(place), y(dot.value), size, 0, 7);
      else context.rect(x(place) - 4, y(dot.value) - 4, 8, 8);
      context.fill();
    });
  }

  return {
    element,
    start: panel.redraw,
    update(history, clients, round) {
      if (!round) return;
      kind = round.update_norm.some((value) => value !== null) ? "update_norm" : "gradient_norm";
      const title = kind === "update_norm" ? "Norm of each update" : "Gradient norm of each client";
      element.querySelector("h2").textContent = `${title}, round ${round.round}`;
      dots = round.client.map((client, i) => ({ client, value: round[kind][i], status: round.status[i] ?? "ok", reason: round.reason[i] ?? "" })).filter((dot) => dot.value !== null || dot.status === "rejected");
      line = kind === "update_norm" ? history.norm_line ?? null : null;
      most = Math.max(...dots.map((dot) => dot.value ?? 0), line ?? 0, 1e-9) * 1.05;
      const refused = round.status.filter((status) => status === "rejected").length;
      legend.replaceChildren(
        h("li", {}, h("i", { class: "block tone-accent" }), "accepted"), h("li", {}, h("i", { class: "block tone-violet" }), `refused by the guard: ${refused}`),
        ...(line === null ? [] : [h("li", {}, h("i", { class: "dashed tone-red" }), `guard's line ${figure(line)}`)]));
      note.textContent = kind === "gradient_norm" ? "Mean over the client's steps, before clipping." : "";
      panel.redraw();
      list.redraw();
    },
  };
}
