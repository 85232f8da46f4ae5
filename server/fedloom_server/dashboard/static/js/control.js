// Asking a run for something: each request is confirmed, and shown as open until the run takes it up.
import { post } from "./api.js";
import { fill, h } from "./dom.js";

const ACTIONS = {
  pause: ["Pause after round", "Pause after this round?", "The open round is finished first. Clients wait until you let the run go on.", "Pause"],
  resume: ["Go on", "Let the run go on?", "The next round begins at once.", "Go on"],
  stop: ["Stop…", "Stop this run?", "The open round is finished first; its model and all figures are kept, and the run can be resumed later.", "Stop the run"],
  restart: ["Resume run", "Resume this run?", "It goes on from its last finished round, as a process of its own on the dashboard's machine.", "Resume"],
  exclude: ["Exclude this client…", "Exclude this client?", "It is not asked again until you include it. Its updates so far stay in the model.", "Exclude"],
  include: ["Include again", "Include this client again?", "It may be asked from the next round on.", "Include"],
};
const TAKEN = { pause: "pauses after this round", resume: "goes on", stop: "stops after this round", exclude: "is excluded from the next round on", include: "is included from the next round on" };

/** Buttons for what may be asked of a run; done() is called after each request. */
export function controls(run, done) {
  const element = h("div", { class: "actions" });
  const said = h("p", { class: "note", role: "status" });
  let shown = "";
  return {
    element, said,
    update(actions, commands, client, restart = { starting: false, problem: "" }) {
      const mine = actions.filter((action) => ["exclude", "include"].includes(action) === (client !== undefined));
      const state = JSON.stringify([mine, commands.map((command) => command.id), restart]);
      if (state === shown) return;
      shown = state;
      if (restart.starting) said.textContent = "The run is being started again…";
      else if (restart.problem) said.textContent = `It could not be started again: ${restart.problem}`;
      else said.textContent = commands.map((command) => `${command.client === null ? "The run" : `Client ${command.client}`} ${TAKEN[command.action]} (asked by ${command.who}).`).join(" ");
      fill(element, mine.map((action) => h("button", {
        class: action === "stop" || action === "exclude" ? "danger" : null, disabled: commands.some((command) => command.action === action),
        onclick: () => ask(run, action, client, done),
      }, ACTIONS[action][0])));
    },
  };
}

function ask(run, action, client, done) {
  const [, title, text, yes] = ACTIONS[action];
  const wrong = h("p", { class: "note", role: "alert" });
  const confirm = h("button", { class: action === "stop" || action === "exclude" ? "danger" : "main" }, yes);
  const dialog = h("dialog", { "aria-labelledby": "ask" }, h("h2", { id: "ask" }, title), h("p", {}, text), wrong,
    h("div", { class: "actions" }, h("button", { onclick: () => dialog.close(), autofocus: true }, "Cancel"), confirm));
  confirm.addEventListener("click", async () => {
    confirm.disabled = true;
    try {
      await post(`/runs/${run}/commands`, { action, ...(client === undefined ? {} : { client }) });
      dialog.close();
      done();
    } catch (error) {
      wrong.textContent = error.message;
      confirm.disabled = false;
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
