// Which classes each client holds: a bar a client, its classes as shares of its examples.
import { canvasPanel } from "../canvas.js";
import { color } from "../charts.js";
import { card, figures, h, table } from "../dom.js";
import { count } from "../format.js";

// Okabe and Ito (2008), then the same lighter: neighbours differ for every colour vision.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7a7a7a", "#66aad1", "#f5cf80", "#66c5ab", "#e0afca"];
const HEIGHT = 200;
const AXIS = 22;

export function labels(run) {
  let bars = [];
  let names = [];
  let most = 1;
  const element = card("Examples and classes of each client");
  const legend = h("ul", { class: "legend" });
  const at = (x) => bars[Math.floor((x / panel.element.clientWidth) * bars.length)];
  const panel = canvasPanel({
    label: "Training examples of each client, split by class",
    height: HEIGHT + AXIS,
    draw,
    under: (x) => {
      const bar = at(x);
      return bar && [`client ${bar.id}: ${count(bar.examples)} examples`, ...(bar.labels ?? []).map((n, k) => [n, k]).filter(([n]) => n).sort((a, b) => b[0] - a[0]).slice(0, 6).map(([n, k]) => `${names[k] ?? k}: ${n}`)].join("\n");
    },
    click: (x) => at(x) && location.assign(`/runs/${run}/clients/${at(x).id}`),
  });
  const list = figures("Examples of each client", () => table("Examples of each client", [
    ["Client", (bar) => String(bar.id)], ["Examples", (bar) => count(bar.examples), "number"],
    ["Largest class", (bar) => (bar.labels ? `${names[top(bar)] ?? top(bar)} (${Math.round((100 * bar.labels[top(bar)]) / (bar.labels.reduce((a, b) => a + b, 0) || 1))} %)` : "–")],
  ], bars.slice(0, 300)));
  const note = h("p", { class: "note" });
  element.append(legend, panel.element, note, list.element);
  const top = (bar) => bar.labels.indexOf(Math.max(...bar.labels));

  function draw(context, width) {
    const wide = width / Math.max(bars.length, 1);
    bars.forEach((bar, place) => {
      const total = (bar.labels ?? []).reduce((sum, n) => sum + n, 0) || 1;
      const tall = (bar.examples / most) * (HEIGHT - 4);
      let y = HEIGHT;
      const parts = bar.labels ?? [1];
      parts.forEach((n, k) => {
        const size = (n / (bar.labels ? total : 1)) * tall;
        context.fillStyle = bar.labels ? COLOURS[k % COLOURS.length] : color("accent");
        context.fillRect(place * wide, y - size, Math.max(wide - (wide > 4 ? 2 : 0), 0.6), size);
        y -= size;
      });
    });
    context.fillStyle = color("muted");
    context.fillText(`each bar a client, the tallest ${count(most)} examples`, 2, HEIGHT + AXIS / 2 + 2);
  }

  return {
    element,
    start: panel.redraw,
    update(history, clients) {
      names = history.facts.class_names ?? [];
      bars = clients.id.map((id, place) => ({ id, examples: clients.examples[place], labels: clients.labels[place] }));
      if (bars.length > 60 && bars.every((bar) => bar.labels)) bars.sort((a, b) => top(a) - top(b) || b.examples - a.examples);
      most = Math.max(...bars.map((bar) => bar.examples), 1);
      note.textContent = bars.length > 60 ? "Clients stand in the order of their largest class." : "";
      legend.replaceChildren(...(bars.some((bar) => bar.labels) ? names.slice(0, 12).map((name, k) => {
        const mark = h("i", { class: "block" });
        mark.style.background = COLOURS[k % COLOURS.length];
        return h("li", {}, mark, name);
      }) : []));
      panel.redraw();
      list.redraw();
    },
  };
}
