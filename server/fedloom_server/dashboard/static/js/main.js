// The shell: navigation, theme, state of the connection; and which page an address shows.
import { get, post } from "./api.js";
import { empty, fill, h, problem } from "./dom.js";
import * as live from "./live.js";

const PAGES = [
  [/^\/$/, "Runs", () => import("./pages/runs.js")],
  [/^\/runs\/([^/]+)$/, "Run", () => import("./pages/run.js")],
  [/^\/runs\/([^/]+)\/clients$/, "Clients", () => import("./pages/clients.js")],
  [/^\/runs\/([^/]+)\/clients\/(\d+)$/, "Client", () => import("./pages/client.js")],
  [/^\/fleet$/, "Fleet", () => import("./pages/fleet.js")],
  [/^\/models$/, "Models", () => import("./pages/models.js")],
  [/^\/compare$/, "Compare", () => import("./pages/compare.js")],
  [/^\/alerts$/, "Alerts", () => import("./pages/alerts.js")],
  [/^\/login$/, "Log in", () => import("./pages/login.js")],
];
const LINKS = [["/", "Runs"], ["/compare", "Compare"], ["/fleet", "Fleet"], ["/models", "Models"], ["/alerts", "Alerts"]];
const STATES = { live: "live", lost: "connection lost", connecting: "connecting" };

function shell(session) {
  const path = location.pathname;
  const state = h("span", { class: "link-state", role: "status" }, "connecting");
  const nav = h("nav", { "aria-label": "Pages" }, h("ul", {}, LINKS.map(([to, name]) =>
    h("li", {}, h("a", { href: to, "aria-current": to === path || (to === "/" && path.startsWith("/runs/")) ? "page" : null }, name)))));
  const out = h("button", { class: "small plain", onclick: () => post("/logout", {}).then(() => location.assign("/login")) }, "Log out");
  fill(document.getElementById("top"), h("div", { class: "bar" },
    h("a", { class: "logo", href: "/" }, h("img", { src: "/favicon.svg", alt: "" }), "fedloom"),
    session.who && nav,
    h("div", { class: "end" }, session.who && state, session.read_only && h("span", { class: "note" }, "read-only"), themeButton(), session.who && out)));
  if (session.who) {
    live.start();
    live.listen((message) => {
      if (message.kind !== "state") return;
      state.dataset.state = message.state;
      state.textContent = STATES[message.state];
    });
  }
}

function themeButton() {
  const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const button = h("button", { class: "small plain", onclick: () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
    dispatchEvent(new Event("themechange"));
    button.textContent = dark() ? "Light" : "Dark";
  } }, dark() ? "Light" : "Dark");
  button.setAttribute("aria-label", "Switch between light and dark");
  return button;
}

async function show() {
  const main = document.getElementById("main");
  const session = await get("/session").catch((error) => ({ error }));
  if (session.error) return fill(main, problem(session.error));
  if (!session.who && location.pathname !== "/login") return location.replace(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  shell(session);
  const found = PAGES.map(([pattern, title, load]) => [location.pathname.match(pattern), title, load]).find(([match]) => match);
  if (!found) return fill(main, h("h1", { class: "hidden" }, "Nothing here"), empty("There is nothing here", "The address leads to no page.", h("a", { href: "/" }, "All runs")));
  const [match, title, load] = found;
  document.title = `${title} · fedloom`;
  try {
    const page = await load();
    await page.show(main, ...match.slice(1).map(decodeURIComponent));
  } catch (error) {
    fill(main, h("h1", { class: "hidden" }, title), problem(error), h("p", {}, h("a", { class: "crumb", href: "/" }, "All runs")));
    if (!error.status) throw error;
  }
}

show();
