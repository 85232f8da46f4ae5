"""An endpoint of the API: where it is, what it takes, what it gives; served and documented from one table."""

import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedloom_edge.errors import FedloomError

LARGEST = 2**53 - 1
"""The largest whole number that JSON carries exactly everywhere."""


class ApiError(FedloomError):
    """A request that cannot be answered as asked."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


@dataclass(frozen=True)
class Parameter:
    """A value in the path or the query: a whole number from `least` to `most`, or a text.

    Attributes:
        default: what it is when it is left out; None makes it required unless `optional`.
        choices: every text that is allowed; empty for any.
    """

    name: str
    about: str
    whole: bool = False
    default: Any = None
    optional: bool = False
    least: int = -1
    most: int = LARGEST
    choices: tuple[str, ...] = ()
    in_path: bool = False

    def schema(self) -> dict[str, Any]:
        """As a JSON schema."""
        kind: dict[str, Any] = {"type": "string", "maxLength": 200}
        if self.whole:
            kind = {"type": "integer", "minimum": self.least, "maximum": self.most}
        if self.choices:
            kind = {"type": "string", "enum": list(self.choices)}
        return kind if self.default is None else {**kind, "default": self.default}

    def read(self, text: str | None) -> Any:
        """The value of a text.

        Raises:
            ApiError: it is missing or not allowed.
        """
        if text is None:
            if self.default is None and not self.optional:
                raise ApiError(422, f"{self.name} is missing: {self.about}")
            return self.default
        if self.whole:
            if not re.fullmatch(r"-?[0-9]{1,16}", text) or not self.least <= int(text) <= self.most:
                raise ApiError(422, f"{self.name}: give a whole number from {self.least} to {self.most}")
            return int(text)
        if self.choices and text not in self.choices:
            raise ApiError(422, f"{self.name}: give one of {', '.join(self.choices)}")
        if len(text) > 200:
            raise ApiError(422, f"{self.name}: give at most 200 characters")
        return text


@dataclass(frozen=True)
class Endpoint:
    """One method of one path.

    Attributes:
        answer: makes the answer of the request and its values; a dict or list is sent as JSON.
        result: JSON schema of the answer.
        body: JSON schema of what a POST takes.
        statuses: what else it may answer, with the reason.
        media: the answer's type where it is not JSON.
    """

    path: str
    answer: Callable[[Request, dict[str, Any]], Any]
    about: str
    parameters: tuple[Parameter, ...] = ()
    method: str = "GET"
    result: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    body: Mapping[str, Any] | None = None
    statuses: Mapping[int, str] = field(default_factory=dict[int, str])
    media: str = "application/json"

    def route(self) -> Route:
        """For Starlette. Work happens in a thread: a store may be large and a disk slow."""

        async def serve(request: Request) -> Response:
            try:
                values = self._values(request)
                if self.body is not None:
                    values["body"] = await _body(request)
                answer = await run_sync(self.answer, request, values)
            except ApiError as error:
                return JSONResponse({"error": str(error)}, error.status, error.headers)
            except (FedloomError, sqlite3.Error) as error:
                return JSONResponse({"error": str(error)}, 503, {"retry-after": "1"})
            return answer if isinstance(answer, Response) else JSONResponse(answer)

        return Route(self.path, serve, methods=[self.method])

    def _values(self, request: Request) -> dict[str, Any]:
        return {
            parameter.name: parameter.read(
                request.path_params.get(parameter.name)
                if parameter.in_path
                else request.query_params.get(parameter.name)
            )
            for parameter in self.parameters
        }


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        raise ApiError(422, "the body is no JSON") from None
    if not isinstance(body, dict):
        raise ApiError(422, "the body must be a JSON object")
    return body
