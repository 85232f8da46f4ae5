"""The API's OpenAPI 3.1 document, made of the table of endpoints."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fedloom_server.dashboard.endpoint import Endpoint
from fedloom_server.dashboard.gate import HEADER

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "a sentence for a person"}},
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document."""
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = re.sub(r":path}", "}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fedloom dashboard",
            "version": version("fedloom"),
            "description": (
                "Runs as they go on. Send the token as `Authorization: Bearer TOKEN`, or the cookie that "
                f"/api/v1/login gives; with the cookie a POST needs the header `{HEADER}: 1`. "
                "`/api/v1/stream` sends server-sent events: `runs` with the status and the latest round "
                "and event of each run that changed; fetch the rest from `/api/v1/runs/{run}`."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}, {"cookie": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "fedloom-PORT"},
            },
            "schemas": {"Error": _ERROR},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    common = {401: "not logged in", 403: "refused", 421: "another Host"}
    if endpoint.parameters or endpoint.body is not None:
        common[422] = "a value is missing or not allowed"
    if endpoint.body is not None:
        common |= {413: "the body is too large", 415: "the body is not JSON"}
    refusals = {
        str(status): {"description": about, "content": error}
        for status, about in sorted({**common, **endpoint.statuses}.items())
    }
    operation: dict[str, Any] = {
        "summary": endpoint.about,
        "operationId": f"{endpoint.method.lower()}_{re.sub(r'[^a-z]+', '_', endpoint.path).strip('_')}",
        "parameters": [
            {
                "name": parameter.name,
                "in": "path" if parameter.in_path else "query",
                "required": parameter.in_path or (parameter.default is None and not parameter.optional),
                "description": parameter.about,
                "schema": parameter.schema(),
            }
            for parameter in endpoint.parameters
        ],
        "responses": {
            "200": {
                "description": "the answer",
                "content": {endpoint.media: {"schema": dict(endpoint.result)}},
            },
            **refusals,
        },
    }
    if endpoint.body is not None:
        content = {"application/json": {"schema": dict(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation
