// Every client of the latest round, as a table that can be filtered.
import { get } from "../api.js";
import { badge, card, fill, h, table } from "../dom.js";
import { bytes, count, duration, figure, metricName, metricText } from "../format.js";

const PAGE = 200;

export async function show(main, run) {
  const history = await get(`/runs/${run}`);
  const clients = await get(`/runs/${run}/clients`);
  const number = Math.max(history.round, 1);
  const round = await get(`/runs/${run}/rounds/${number}/clients`);
  const places = new Map(round.client.map((client, place) => [client, place]));
  const query = new URLSearchParams(location.search);
  let first = clients.id.indexOf(Number(query.get("from") ?? 0));
  if (first < 0) first = 0;
  const failed = h("input", { type: "checkbox", id: "failed" });
  const body = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Clients" });
  body.style.maxHeight = "none";
  const pages = h("div", { class: "actions" });
  const at = (id, name) => (places.has(id) ? round[name][places.get(id)] : null);
  const draw = () => {
    const all = clients.id.filter((id) => !failed.checked || (at(id, "status") ?? "ok") !== "ok");
    first = Math.min(first, Math.max(all.length - 1, 0));
    fill(body, all.length ? table("Clients in the latest round", [
      ["Client", (id) => h("a", { href: `/runs/${run}/clients/${id}` }, clients.name[clients.id.indexOf(id)])],
      ["Status", (id) => (at(id, "status") ? badge(at(id, "status")) : "not asked")],
      [metricName(history.facts.metric), (id) => metricText(at(id, "metric"), history.facts.metric), "number"],
      ["Loss", (id) => figure(at(id, "loss")), "number"], ["Training loss", (id) => figure(at(id, "train_loss")), "number"],
      ["Examples", (id) => count(clients.examples[clients.id.indexOf(id)]), "number"], ["Time", (id) => duration(at(id, "seconds")), "number"],
      ["Up", (id) => bytes(at(id, "bytes_up")), "number"], ["Reason", (id) => at(id, "reason") || "–", "reason"],
    ], all.slice(first, first + PAGE)) : h("p", { class: "note" }, "No client failed or was refused in this round."));
    fill(pages, h("button", { disabled: first === 0, onclick: () => { first = Math.max(first - PAGE, 0); draw(); } }, "Previous"),
      h("span", { class: "note" }, all.length ? `${count(first + 1)} to ${count(Math.min(first + PAGE, all.length))} of ${count(all.length)}` : ""),
      h("button", { disabled: first + PAGE >= all.length, onclick: () => { first += PAGE; draw(); } }, "Next"));
  };
  failed.addEventListener("change", draw);
  draw();
  fill(main, h("div", { class: "head" }, h("div", { class: "title" }, h("p", { class: "crumb" }, h("a", { href: "/" }, "Runs"), " / ", h("a", { href: `/runs/${run}` }, history.name)),
    h("h1", {}, "Clients"), h("p", { class: "sub" }, `in round ${number}`)), h("div", { class: "choices" }, h("label", { for: "failed" }, failed, "failed and refused only"))),
  card(`Clients in round ${number}`, {}, body, pages));
}
