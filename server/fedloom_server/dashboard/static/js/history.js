// A run's history in the page: opened whole, then only what is new, never twice.
import { get } from "./api.js";

const EVENTS = 200;

/** load() brings the history up to date and returns it. */
export function historyOf(run) {
  let kept = null;
  return async function load() {
    const after = kept ? `?after_round=${kept.rounds.number.at(-1) ?? -1}&after_event=${kept.events.at(-1)?.id ?? 0}` : "";
    const news = await get(`/runs/${run}${after}`);
    if (kept) {
      for (const [name, values] of Object.entries(kept.rounds)) news.rounds[name] = values.concat(news.rounds[name]);
      news.events = kept.events.concat(news.events).slice(-EVENTS);
    }
    kept = news;
    return kept;
  };
}
