"""Logging in and out."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from fedloom_server.dashboard.access import SESSION_SECONDS, Access
from fedloom_server.dashboard.endpoint import ApiError
from fedloom_server.dashboard.gate import client_address, cookie_name


@dataclass(frozen=True)
class Login:
    """Changes a secret for a cookie that no script can read and no other site can send."""

    access: Access
    secure: bool
    read_only: bool

    def log_in(self, request: Request, values: dict[str, Any]) -> JSONResponse:
        """A cookie for a right secret."""
        address = client_address(request)
        if wait := self.access.wait_seconds(address):
            raise ApiError(
                429, f"too many wrong secrets; wait {wait:.0f} s", {"retry-after": str(int(wait) + 1)}
            )
        session = self.access.log_in(str(values["body"].get("secret", "")), address)
        if session is None:
            raise ApiError(401, "the secret is wrong, was used already, or is too old")
        return self._answer(request, session, SESSION_SECONDS)

    def log_out(self, request: Request, values: dict[str, Any]) -> JSONResponse:
        """Take the cookie away."""
        return self._answer(request, "", 0)

    def session(self, request: Request, values: dict[str, Any]) -> dict[str, Any]:
        """Who this is; `who` is null where nobody is logged in."""
        return {
            "who": request.state.who,
            "read_only": self.read_only,
            "takes_token": self.access.takes_token,
        }

    def _answer(self, request: Request, session: str, seconds: int) -> JSONResponse:
        answer = JSONResponse({"ok": True})
        answer.set_cookie(
            cookie_name(request, self.secure),
            session,
            max_age=seconds,
            path="/",
            httponly=True,
            samesite="strict",
            secure=self.secure,
        )
        return answer
