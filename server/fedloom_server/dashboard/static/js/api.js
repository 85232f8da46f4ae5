// Asking the server. Without a session every page leads to the log-in.

const ROOT = "/api/v1";

/** A failed request; `status` is 0 where the server cannot be reached. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (response.status === 401 && location.pathname !== "/login") location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  throw new ApiError(response.status, body.error ?? `the server answered ${response.status}`);
}

const reach = (path, options) =>
  fetch(ROOT + path, options).catch(() => {
    throw new ApiError(0, "the dashboard cannot be reached; is it still running?");
  });

export const get = async (path) => answer(await reach(path));

export const post = async (path, body) =>
  answer(await reach(path, { method: "POST", headers: { "content-type": "application/json", "x-fedloom": "1" }, body: JSON.stringify(body) }));
