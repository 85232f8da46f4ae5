// Changes the secret behind the # of a one-time link, or the token, for a cookie.
import { get, post } from "../api.js";
import { card, fill, h } from "../dom.js";

export async function show(main) {
  const session = await get("/session");
  const said = h("p", { class: "note", role: "alert" });
  const secret = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search);
  const enter = async (text) => {
    try {
      await post("/login", { secret: text });
      location.replace(next());
    } catch (error) {
      said.textContent = error.message[0].toUpperCase() + error.message.slice(1) + ".";
    }
  };
  const input = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const form = h("form", { onsubmit: (event) => {
    event.preventDefault();
    enter(input.value);
  } }, h("label", { for: "token" }, "Token"), input, h("button", { class: "main" }, "Log in"));
  fill(main, h("div", { class: "narrow" }, h("h1", { class: "hidden" }, "Log in"), card("Log in", {},
    session.takes_token ? form : h("p", {}, "Open the link that ", h("code", {}, "fedloom dashboard"), " printed. It works once; start ", h("code", {}, "fedloom dashboard DIR"), " again for another."), said)));
  if (secret) await enter(secret);
}

/** Where to go: a path of this site and nothing else. */
function next() {
  const wanted = new URLSearchParams(location.search).get("next") ?? "/";
  const there = new URL(wanted, location.origin);
  return there.origin === location.origin && there.pathname !== "/login" ? there.pathname + there.search : "/";
}
