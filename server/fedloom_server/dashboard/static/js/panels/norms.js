// The size of each client's update in the latest round, the guard's line, who was refused, and who attacks.
import { canvasPanel } from "../canvas.js";
import { color } from "../charts.js";
import { badge, card, figures, h, table } from "../dom.js";
import { figure } from "../format.js";

const HEIGHT = 190;
const LEFT = 48;
const WIDE = 12; // times, from the smallest norm to the largest, beyond which the scale is logarithmic
const short = (value) => (value >= 1000 ? value.toExponential(0) : value.toPrecision(2));

export function norms(run) {
  let dots = [];
  let line = null;
  let [least, most] = [0, 1];
  let wide = false;
  let kind = "update_norm";
  const element = card("Update norms");
  const legend = h("ul", { class: "legend" });
  const note = h("p", { class: "note" });
  const x = (place) => LEFT + ((panel.element.clientWidth - LEFT - 8) * (place + 0.5)) / Math.max(dots.length, 1);
  const share = (value) => (wide ? Math.log(Math.max(value, least) / least) / Math.log(most / least) : value / most);
  const y = (value) => HEIGHT - 12 - share(value) * (HEIGHT - 26);
  const panel = canvasPanel({
    label: "Norm of each client's update in the latest round",
    height: HEIGHT,
    draw,
    under: (at) => {
      const dot = dots[Math.floor(((at - LEFT) / (panel.element.clientWidth - LEFT - 8)) * dots.length)];
      return dot && `client ${dot.client}: ${dot.status}\n${figure(dot.value)}${dot.attacks ? "\nan attacker" : ""}${dot.reason ? `\n${dot.reason}` : ""}`;
    },
  });
  const list = figures("Norm of each client", () => table("Norm of each client", [
    ["Client", (dot) => h("a", { href: `/runs/${run}/clients/${dot.client}` }, String(dot.client))], ["Norm", (dot) => figure(dot.value), "number"],
    ["Status", (dot) => badge(dot.status)], ["Attacks", (dot) => (dot.attacks ? "yes" : "no")], ["Reason", (dot) => dot.reason || "–", "reason"],
  ], dots.slice(0, 300)));
  element.append(legend, panel.element, note, list.element);

  function draw(context, width) {
    context.fillStyle = color("muted");
    if (!dots.length) {
      context.fillText("Norms stand here once a client has sent an update.", 4, 30);
      return;
    }
    context.textAlign = "right";
    (wide ? [least, Math.sqrt(least * most), most] : [0, most / 2, most]).forEach((value) => {
      context.fillStyle = color("rule");
      context.fillRect(LEFT, y(value), width - LEFT - 8, 1);
      context.fillStyle = color("muted");
      context.fillText(short(value), LEFT - 8, y(value));
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
      if (!dot.attacks) return;
      context.strokeStyle = color("orange");
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(x(place), y(dot.value), size + 4, 0, 7);
      context.stroke();
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
      const attackers = new Set(history.facts.attackers ?? []);
      dots = round.client.map((client, i) => ({ client, value: round[kind][i], status: round.status[i] ?? "ok", reason: round.reason[i] ?? "", attacks: attackers.has(client) }))
        .filter((dot) => dot.value !== null || dot.status === "rejected");
      line = kind === "update_norm" ? history.rounds.norm_limit[history.rounds.number.indexOf(round.round)] ?? null : null;
      const known = [...dots.map((dot) => dot.value), line].filter((value) => value !== null && value > 0);
      most = Math.max(...known, 1e-9) * 1.05;
      least = Math.min(...known, most) * 0.8;
      wide = most / least > WIDE; // norms differ by factors, and the guard compares them by logarithm
      const refused = round.status.filter((status) => status === "rejected").length;
      legend.replaceChildren(
        h("li", {}, h("i", { class: "block tone-accent" }), "accepted"), h("li", {}, h("i", { class: "block tone-violet" }), `refused by the guard: ${refused}`),
        ...(line === null ? [] : [h("li", {}, h("i", { class: "dashed tone-red" }), `guard's line ${figure(line)}`)]),
        ...(dots.some((dot) => dot.attacks) ? [h("li", {}, h("i", { class: "ring tone-orange" }), `attackers: ${dots.filter((dot) => dot.attacks).length}`)] : []));
      note.textContent = [kind === "gradient_norm" && "Mean over the client's steps, before clipping.", wide && "Logarithmic scale.", attackers.size && "Who attacks is known to the simulation alone, not to the guard."].filter(Boolean).join(" ");
      panel.redraw();
      list.redraw();
    },
  };
}
