// Elements without markup in strings: what a client reports is only ever text here.

/** h("p", { class: "note", onclick: f }, "text", child, [children]) -> element; null children are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A table of rows; columns are [title, row => cell, class]. A cell is text or an element. */
export function table(caption, columns, rows) {
  return h("table", {},
    h("caption", { class: "hidden" }, caption),
    h("thead", {}, h("tr", {}, columns.map(([title, , kind]) => h("th", { scope: "col", class: kind }, title)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row) ?? "–"))))),
  );
}

/** The figures of a drawing as a table, made when somebody opens it. */
export function figures(caption, make) {
  const body = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption });
  const details = h("details", { class: "figures" }, h("summary", {}, "Figures as a table"), body);
  const redraw = () => details.open && fill(body, make());
  details.addEventListener("toggle", redraw);
  return { element: details, redraw };
}

const MARKS = { running: "▶", paused: "⏸", finished: "✓", ok: "✓", interrupted: "■", failed: "✕", crashed: "✕", unreadable: "✕", rejected: "⊘", critical: "▲", warning: "△" };

/** A status by colour, mark and word. */
export const badge = (status, text = status) =>
  h("span", { class: "status", "data-status": status, "data-mark": MARKS[status] ?? "•" }, text);

/** A card with a title. */
export function card(title, attributes = {}, ...children) {
  const tools = h("div", { class: "tools" });
  const element = h("section", { class: `card ${attributes.class ?? ""}`, "data-card": title }, h("header", {}, h("h2", {}, title), tools), ...children);
  return Object.assign(element, { tools });
}

/** What is shown where there is nothing. */
export const empty = (title, ...text) => h("div", { class: "empty" }, h("h2", {}, title), text.map((line) => h("p", {}, line)));

/** What is shown where something went wrong. */
export const problem = (error) =>
  h("div", { class: "problem", role: "alert" }, h("strong", {}, "This did not work: "), error.message ?? String(error));
