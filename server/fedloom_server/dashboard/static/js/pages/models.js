// Models and files of every run: what they are, where they come from, and their hash.
import { get } from "../api.js";
import { badge, card, empty, fill, h, table } from "../dom.js";
import { ago, bytes, metricText } from "../format.js";

export async function show(main) {
  const models = await get("/models");
  const some = models.filter((model) => model.artifacts.length);
  fill(main, h("div", { class: "head" }, h("div", { class: "title" }, h("h1", {}, "Models"), h("p", { class: "sub" }, "Checkpoints and files, each with its sha256"))),
    some.length ? h("div", { class: "stack" }, some.map(oneRun)) : empty("No models yet", "A checkpoint is kept after every round; the ONNX model is written when a run ends."));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

function oneRun(model) {
  const versions = ["fedloom", "torch", "onnxruntime"].filter((name) => model.versions[name]).map((name) => `${name} ${model.versions[name]}`).join(", ");
  const provenance = [model.task, model.strategy, `seed ${model.seed}`, `${model.metric} ${metricText(model.value, model.metric)}`, versions,
    model.onnx_difference === null ? null : `ONNX differs from torch by at most ${model.onnx_difference.toExponential(1)}`].filter(Boolean).join(" · ");
  const element = card(model.name, {}, h("p", { class: "note" }, provenance), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Files of ${model.name}` }, table(`Files of ${model.name}`, [
    ["File", (file) => h("div", {}, file.kind === "checkpoint" ? `checkpoint of round ${file.round}` : file.name, h("div", { class: "note" }, file.what))],
    ["Round", (file) => String(file.round ?? "–"), "number minor"], ["Size", (file) => bytes(file.bytes), "number"], ["Written", (file) => ago(file.time), "minor"],
    ["sha256", (file) => h("code", { class: "hash", title: file.sha256 }, file.sha256)],
    ["Download", (file) => h("a", { class: "button small", href: `/api/v1/runs/${model.run}/artifacts/${file.name}`, download: true, "aria-label": `Download ${file.name} of ${model.name}` }, "Download")],
  ], model.artifacts)));
  element.id = model.run;
  element.tools.append(badge(model.status), h("a", { href: `/runs/${model.run}`, "aria-label": `Run ${model.name}` }, "Run"));
  return element;
}
