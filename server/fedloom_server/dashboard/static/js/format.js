// Numbers with units, and times, as people read them.

const dash = "–";
export const known = (value) => typeof value === "number" && Number.isFinite(value);

/** A loss or metric in four decimals. */
export const figure = (value) => (!known(value) ? dash : Math.abs(value) < 0.01 && value !== 0 ? value.toPrecision(3) : value.toFixed(Math.abs(value) >= 100 ? 1 : 4));

/** The standard metric: accuracy in percent, others as they are. */
export const metricText = (value, name) => (!known(value) ? dash : name === "accuracy" ? `${(100 * value).toFixed(1)} %` : figure(value));

export const percent = (share) => (known(share) ? `${(100 * share).toFixed(share > 0.995 || share === 0 ? 0 : 1)} %` : dash);

export const count = (value) => (known(value) ? value.toLocaleString("en") : dash);

/** 1,234,567 -> "1.23 MB". */
export function bytes(value) {
  if (!known(value)) return dash;
  for (const [unit, scale] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (Math.abs(value) >= scale) return `${(value / scale).toPrecision(3)} ${unit}`;
  }
  return `${value} B`;
}

/** Seconds as "8.2 s", "3 min 05 s" or "2 h 07 min". */
export function duration(seconds) {
  if (!known(seconds)) return dash;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  const rest = Math.round(seconds) % 60;
  return minutes < 60 ? `${minutes} min ${String(rest).padStart(2, "0")} s` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** How long ago a time was. */
export function ago(time) {
  if (!known(time)) return dash;
  const seconds = Math.max(Date.now() / 1000 - time, 0);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(time * 1000).toISOString().slice(0, 10);
}

export const clock = (time) => (known(time) ? new Date(time * 1000).toTimeString().slice(0, 8) : dash);
export const metricName = (name) => ({ accuracy: "Accuracy", mae: "Mean absolute error" })[name] ?? name;
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
