// A canvas that fits its box on every screen, redraws with the theme, and tells what is under the pointer.
import { themed } from "./charts.js";
import { h } from "./dom.js";

/** draw(context, width, height) in CSS pixels; under(x, y) -> text or null; click(x, y). */
export function canvasPanel({ label, height, draw, under, click }) {
  const canvas = h("canvas", { role: "img", "aria-label": label });
  const tip = h("div", { class: "tip" });
  const box = h("div", { class: "panel" }, canvas, tip);
  let drawn = false;
  const redraw = () => {
    const width = box.clientWidth;
    if (!width) return;
    const tall = typeof height === "function" ? height(width) : height;
    const scale = Math.min(devicePixelRatio || 1, 2);
    // Setting the size, even to the same, throws the bitmap away and takes a new one.
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(tall * scale)) {
      canvas.height = Math.round(tall * scale);
      canvas.style.height = `${tall}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, tall);
    context.font = "11.5px system-ui, sans-serif";
    context.textBaseline = "middle";
    draw(context, width, tall);
    drawn = true;
  };
  let seen = 0;
  new ResizeObserver(() => {
    if (drawn && box.clientWidth !== seen) redraw();
    seen = box.clientWidth;
  }).observe(box);
  themed(() => drawn && redraw());
  canvas.addEventListener("pointermove", (event) => {
    const text = under?.(event.offsetX, event.offsetY);
    tip.style.display = text ? "block" : "none";
    if (!text) return;
    tip.textContent = text;
    const right = event.offsetX > box.clientWidth / 2;
    tip.style.left = right ? "auto" : `${event.offsetX + 14}px`;
    tip.style.right = right ? `${box.clientWidth - event.offsetX + 14}px` : "auto";
    tip.style.top = `${Math.max(event.offsetY - 10, 0)}px`;
  });
  canvas.addEventListener("pointerleave", () => (tip.style.display = "none"));
  if (click) canvas.addEventListener("click", (event) => click(event.offsetX, event.offsetY));
  return { element: box, redraw, canvas };
}

/** [r, g, b] between two colours of the theme at 0 to 1. */
export function ramp(low, high) {
  const parse = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number);
  const [from, to] = [parse(low), parse(high)];
  return (share) => from.map((part, place) => Math.round(part + (to[place] - part) * share));
}

export const rgb = (parts) => `rgb(${parts[0]} ${parts[1]} ${parts[2]})`;
