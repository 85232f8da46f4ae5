"""The gate in front of every page: Host, session, cross-site requests, and headers on every answer."""

from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedloom_server.dashboard.access import Access

HEADER = "x-fedloom"
"""A header that a page of another site cannot send without this site's leave (CORS preflight)."""
LARGEST_BODY = 4096
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# Code and style without data, the log-in itself, and whether the server is up.
_OPEN = ("/healthz", "/login", "/api/v1/login", "/api/v1/session", "/favicon.svg")
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class Gate:
    """Lets a request pass or answers it itself.

    Attributes:
        app: what is behind the gate.
        access: who may pass.
        hosts: names in the Host header that are ours; any other may be DNS rebinding.
        secure: whether the server speaks TLS.
        read_only: refuse everything but reading.
    """

    app: ASGIApp
    access: Access
    hosts: frozenset[str]
    secure: bool
    read_only: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refuses(request)
        handler = JSONResponse({"error": refusal[1]}, refusal[0]) if refusal else self.app
        await handler(scope, receive, self._with_headers(request, send))

    def _refuses(self, request: Request) -> tuple[int, str] | None:
        """A status code and a sentence, or None."""
        if host_name(request.headers.get("host", "")) not in self.hosts:
            return 421, "this server has another name; add it with --allow-host"
        if request.method not in (*_SAFE, "POST"):
            return 405, "only GET and POST are served"
        path = request.url.path
        request.state.who = self._who(request)
        is_open = path in _OPEN or path.startswith("/static/") or _is_page(request)
        if request.state.who is None and not is_open:
            return 401, "log in first: open the link that `fedloom dashboard` printed, or send the token"
        if request.method == "POST":
            return self._refuses_post(request.headers, path)
        return None

    def _refuses_post(self, headers: Headers, path: str) -> tuple[int, str] | None:
        if "authorization" not in headers and not _is_same_origin(headers, self.secure):
            return 403, f"a request from another site, or one without the header {HEADER}: 1"
        if not headers.get("content-type", "").startswith("application/json"):
            return 415, "send application/json"
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return 413, f"send a Content-Length of at most {LARGEST_BODY} bytes"
        if self.read_only and path not in ("/api/v1/login", "/api/v1/logout"):
            return 403, "this dashboard is read-only"
        return None

    def _who(self, request: Request) -> str | None:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            address = client_address(request)
            if self.access.wait_seconds(address):
                return None
            if self.access.is_token(secret):
                return "token"
            self.access.note_wrong(address)
            return None
        return self.access.who(request.cookies.get(cookie_name(request, self.secure), ""))

    def _with_headers(self, request: Request, send: Send) -> Send:
        cacheable = request.url.path.startswith("/static/")

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if self.secure:
                    headers["strict-transport-security"] = "max-age=31536000"
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-cache" if cacheable else "no-store"
            await send(message)

        return add


def host_name(host: str) -> str:
    """The name in a Host header without its port: `[::1]:8080` -> `[::1]`."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def cookie_name(request: Request, secure: bool) -> str:
    """The session's cookie. Cookies know no port, so the name does: two dashboards share one host."""
    server: Any = request.scope.get("server") or ("", 0)
    return f"__Host-fedloom-{server[1]}" if secure else f"fedloom-{server[1]}"


def client_address(request: Request) -> str:
    """The address that a request comes from; a proxy's headers are not believed."""
    return request.client.host if request.client else "unknown"


def _is_page(request: Request) -> bool:
    """A page is a shell without data; what it shows it asks for, and that needs a session."""
    path = request.url.path
    return request.method in _SAFE and not path.startswith("/api/") and path != "/metrics"


def _is_same_origin(headers: Headers, secure: bool) -> bool:
    if headers.get(HEADER) != "1":
        return False
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = headers.get("origin")
    expected = f"{'https' if secure else 'http'}://{headers.get('host', '')}"
    return origin is None or origin == expected
