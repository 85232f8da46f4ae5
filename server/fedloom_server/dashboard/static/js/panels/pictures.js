// What `fedloom explain` drew of a run; hidden where it drew nothing.
import { card, fill, h } from "../dom.js";

export function picturesCard(run) {
  const body = h("div", { class: "stack" });
  const element = card("Explanations", { class: "wide" }, body);
  let shown = "";
  element.hidden = true;
  return {
    element,
    update({ pictures, name }) {
      const names = Object.keys(pictures);
      element.hidden = !names.length;
      if (shown === names.join()) return;
      shown = names.join();
      fill(body, names.map((file) => h("img", { class: "picture", src: `/api/v1/runs/${run}/artifacts/${file}`, alt: `${name}: ${pictures[file]}`, loading: "lazy" })));
    },
  };
}
