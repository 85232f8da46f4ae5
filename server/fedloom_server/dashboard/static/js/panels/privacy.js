// The privacy that a run has spent, round by round, against its budget; hidden where a run accounts for none.
import { lineChart } from "../charts.js";
import { card, h } from "../dom.js";
import { figure, known } from "../format.js";

export function privacyCard() {
  const chart = lineChart({ label: "Privacy spent after each round, as ε", format: figure, height: 170, fromZero: true,
    series: [{ name: "spent, ε", tone: "accent" }, { name: "budget", tone: "red", dashed: true }] });
  const note = h("p", { class: "note" });
  const element = card("Privacy budget", {}, ...chart.elements, note);
  element.hidden = true;
  return {
    element,
    update({ rounds, facts }) {
      const { budget, delta, unit, mechanism } = facts.privacy ?? {};
      element.hidden = !rounds.epsilon.some(known);
      if (element.hidden) return;
      const spent = rounds.epsilon.findLast(known);
      chart.set(rounds.number, [rounds.epsilon, rounds.number.map(() => budget ?? null)]);
      note.textContent = [known(budget) && `${figure(Math.max(budget - spent, 0))} of ε = ${figure(budget)} is left.`, known(delta) && `δ = ${delta.toPrecision(2)}.`,
        unit && `What is hidden is ${unit === "sample" ? "one example of a client" : "a client with all its data"}: ${mechanism}.`].filter(Boolean).join(" ");
    },
  };
}
