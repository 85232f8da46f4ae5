// Line charts on uPlot: colours of the theme, size of the box, a legend in words, the figures as a table.
import { figures, h, table } from "./dom.js";
import { clock } from "./format.js";

/** A colour of the style sheet as text that a canvas takes. */
export function color(name) {
  probe ??= document.body.appendChild(h("span", { class: "hidden", "aria-hidden": "true" }));
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
let probe = null;

/** Call draw now and when the theme changes. */
export function themed(draw) {
  addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

/**
 * A chart of series over rounds.
 * options: {label, height, format, bounded, time, series: [{name, tone, dashed, steps}], bands: [[upper, lower, tone]]}
 * set(x, columns) draws; a column for every series and, behind them, for every edge of a band.
 */
export function lineChart(options) {
  const height = options.height ?? 230;
  const box = h("div", { class: "panel", role: "img", "aria-label": options.label });
  const legend = h("ul", { class: "legend" });
  const blank = h("p", { class: "note", hidden: true }, "Nothing measured yet.");
  let plot = null;
  let data = null;
  const rows = figures(options.label, () => asTable(options, data));
  const width = () => Math.max(box.clientWidth, 120);
  const build = () => {
    plot?.destroy();
    plot = new uPlot(uplotOptions(options, width(), height), data, box);
  };
  new ResizeObserver(() => plot && Math.abs(plot.width - width()) > 1 && plot.setSize({ width: width(), height })).observe(box);
  themed(() => data && build());
  return {
    elements: [legend, blank, box, rows.element],
    set(x, columns) {
      data = [x, ...columns.map((column) => column.map((value) => value ?? null))];
      if (plot) plot.setData(data);
      else build();
      legend.replaceChildren(...options.series.map((series, place) => entry(series, data[place + 1], options.format)),
        ...(options.bands ?? []).map(([, , tone, name]) => h("li", {}, h("i", { class: `block tone-${tone}` }), name)));
      blank.hidden = columns.slice(0, options.series.length).some((column) => column.some((value) => value !== null && value !== undefined));
      rows.redraw();
    },
  };
}

const entry = (series, values, format) => h("li", {},
  h("i", { class: `tone-${series.tone}${series.dashed ? " dashed" : ""}` }), series.name, " ", h("b", {}, format(last(values))));

const last = (values) => values.findLast((value) => value !== null && value !== undefined);

function asTable(options, data) {
  const columns = [options.time ? ["Time", (row) => clock(data[0][row])] : ["Round", (row) => String(data[0][row]), "number"], ...options.series.map((series, place) =>
    [series.name, (row) => options.format(data[place + 1][row]), "number"])];
  return table(options.label, columns, data[0].map((_, row) => row).reverse());
}

function uplotOptions(options, width, height) {
  const axis = { stroke: color("muted"), grid: { stroke: color("rule"), width: 1 }, ticks: { show: false }, font: "11.5px system-ui" };
  const edges = (options.bands ?? []).flatMap(([upper, lower]) => [upper, lower]);
  return {
    width, height,
    cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
    legend: { show: false },
    scales: { x: { time: options.time ?? false }, y: { range: (_, low, high) => range(low, high, options) } },
    axes: [
      options.time ? { ...axis, size: 28, grid: { show: false }, values: (_, ticks) => ticks.map(clock) } : { ...axis, size: 28, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] },
      { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => options.tick ? options.tick(tick) : String(+tick.toPrecision(4))) },
    ],
    series: [{},
      ...options.series.map((series) => ({
        label: series.name, stroke: color(series.tone), width: series.dashed ? 1.5 : 2, dash: series.dashed ? [5, 4] : undefined,
        spanGaps: true, points: { show: (_, place) => data1(_, place) },
        paths: series.bars ? uPlot.paths.bars({ size: [0.7, 24] }) : undefined, fill: series.bars ? color(series.tone) : undefined,
      })),
      ...edges.map(() => ({ stroke: "transparent", points: { show: false }, width: 0 })),
    ],
    bands: (options.bands ?? []).map(([, , tone], place) => {
      const first = options.series.length + 1 + 2 * place;
      return { series: [first, first + 1], fill: color(tone) };
    }),
    hooks: { setCursor: [(plot) => tip(plot, options)] },
  };
}

/** One measured round is a point; a line needs two. */
const data1 = (plot, place) => plot.data[place].filter((value) => value !== null).length === 1;

function range(low, high, options) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  const floor = options.fromZero ? 0 : low - room;
  return options.bounded ? [Math.max(floor, 0), Math.min(high + room, 1.005)] : [floor, high + room];
}

function tip(plot, options) {
  let box = plot.over.querySelector(".tip");
  if (!box) plot.over.append((box = h("div", { class: "tip" })));
  const place = plot.cursor.idx;
  if (place === null || place === undefined || plot.cursor.left < 0) {
    box.style.display = "none";
    return;
  }
  box.textContent = [`${options.xName ?? "round"} ${options.time ? clock(plot.data[0][place]) : plot.data[0][place]}`,
    ...options.series.map((series, at) => `${series.name}: ${options.format(plot.data[at + 1][place])}`)].join("\n");
  box.style.display = "block";
  const right = plot.cursor.left > plot.over.clientWidth / 2;
  box.style.left = right ? "auto" : `${plot.cursor.left + 12}px`;
  box.style.right = right ? `${plot.over.clientWidth - plot.cursor.left + 12}px` : "auto";
  box.style.top = "6px";
}

/** A small line without axes, as SVG. */
export function sparkline(values, label) {
  const known = values.map((value, place) => [place, value]).filter(([, value]) => value !== null && value !== undefined);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 120 32");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  if (known.length > 1) {
    const low = Math.min(...known.map(([, value]) => value));
    const high = Math.max(...known.map(([, value]) => value));
    const points = known.map(([place, value]) => `${2 + (116 * place) / (values.length - 1)},${29 - (26 * (value - low)) / (high - low || 1)}`);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points.join(" "));
    line.setAttribute("fill", "none");
    line.setAttribute("stroke", "var(--accent)");
    line.setAttribute("stroke-width", "2");
    line.setAttribute("stroke-linejoin", "round");
    svg.append(line);
  }
  return svg;
}
