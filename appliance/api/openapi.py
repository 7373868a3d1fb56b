"""The API document (OpenAPI 3.1), written from what the handlers say of themselves.

Only handlers with an `Operation` are in it. Bodies and replies are the msgspec structs that are really decoded and
encoded, so the document cannot say something else than the program does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from appliance.api.operations import OPT, Access, Operation, Success
from appliance.api.problems import MEDIA_TYPE, Problem

_REF: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {"$ref": _REF.format(name="Problem")}

_TITLES: Final = {
    400: "The body or the request cannot be read, or has a field that this call does not know.",
    401: "No valid access token.",
    403: "The token is valid but does not allow this, or the user is not enrolled.",
    404: "No such thing, or not yours.",
    409: "It is being done at this moment, or it is already otherwise.",
    408: "The body did not arrive within 15 seconds; the connection is closed.",
    413: "The body is too large.",
    415: "The body is not declared as the media type that this call takes.",
    422: "A field breaks a rule; `field` and `errors` name it and the fix.",
    429: "Too many requests, or the daily quota is used up.",
    500: "A fault on our side; the log has it under `error_id`.",
    503: "Nothing was kept; send it again.",
    507: "The server's disk is full; nothing was kept.",
}
_HEADERS: Final = {
    401: {"WWW-Authenticate": "Bearer, and what is wrong with the token."},
    429: {"Retry-After": "Seconds until it is worth another try."},
    503: {"Retry-After": "Seconds until it is worth another try."},
    507: {"Retry-After": "Seconds until it is worth another try."},
}
_OF_EVERY_CALL: Final = (400, 500, 503)
_OF_EVERY_BODY: Final = (408, 413, 415, 422)
_OF_EVERY_TOKEN: Final = (401, 403)

_TEXT: Final = {"type": "string", "pattern": "^[^\\u0000]*$"}
_JSON_VALUE: Final[dict[str, Any]] = {
    "description": "Any JSON value. Texts hold no NUL.",
    "anyOf": [
        {"type": "null"},
        {"type": "boolean"},
        {"type": "number"},
        _TEXT,
        {"type": "array", "items": {"$ref": _REF.format(name="JsonValue")}},
        {"$ref": _REF.format(name="JsonObject")},
    ],
}
_JSON_OBJECT: Final[dict[str, Any]] = {
    "type": "object",
    "propertyNames": _TEXT,
    "additionalProperties": {"$ref": _REF.format(name="JsonValue")},
}

_TOKEN_URL: Final = "/oauth/token"  # noqa: S105 - a path

_SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "oauth": {
        "type": "oauth2",
        "description": "Where access tokens come from.",
        "flows": {
            "clientCredentials": {"tokenUrl": _TOKEN_URL, "scopes": {"push:send": "Send notifications as an app."}},
            "password": {"tokenUrl": _TOKEN_URL, "refreshUrl": _TOKEN_URL, "scopes": {}},
        },
    },
    Access.ADMIN: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An admin's access token: POST /oauth/token with grant_type=password.",
    },
    Access.APP: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An app's access token: POST /oauth/token with grant_type=client_credentials, scope=push:send.",
    },
    Access.USER: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A user's access token: POST /oauth/token with grant_type=password or refresh_token.",
    },
}


def build_document(app: Litestar, *, version: str) -> dict[str, Any]:
    """Write the document for every described handler of the application."""
    described = sorted(_described(app), key=lambda found: (found[0], found[1]))
    paths: dict[str, dict[str, Any]] = {}
    for path, method, handler, operation in described:
        paths.setdefault(path, {})[method.lower()] = _operation(path, method, handler, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Carillon",
            "version": version,
            "description": "Push notifications: send them, get them to people's devices, and see what became of them.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in sorted({operation.tag for *_, operation in described})],
        "paths": paths,
        "components": {
            "securitySchemes": _SECURITY_SCHEMES,
            "schemas": _schemas(operation for *_, operation in described),
        },
    }


def correct_allow_headers(app: Litestar) -> None:
    """Make OPTIONS answer with every method of its path.

    Litestar makes the OPTIONS handler with the first handler of a path and does not tell it of the later ones.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute) and (known := route.route_handler_map.get("OPTIONS")):
            first = next((cell.cell_contents for cell in _cells(known[0])), None)
            if isinstance(first, HTTPRoute) and first is not route:
                first.methods = route.methods


def _cells(handler: HTTPRouteHandler) -> Sequence[Any]:
    return getattr(handler.fn, "__closure__", None) or ()


def _described(app: Litestar) -> Iterable[tuple[str, str, HTTPRouteHandler, Operation]]:
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for handler in route.route_handlers:
            operation = handler.opt.get(OPT)
            if isinstance(operation, Operation):
                for method in handler.http_methods:
                    yield route.path_format, method, handler, operation


def _operation(path: str, method: str, handler: HTTPRouteHandler, operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": " ".join((handler.fn.__doc__ or "").split()),
        "operationId": handler.handler_name.rpartition(".")[2],
        "parameters": [*_path_parameters(path), *_parameters(operation)],
        "security": [{access: []} for access in operation.access],
        "responses": _responses(path, operation),
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {operation.body_media_type: {"schema": _schema(operation.body)}},
        }
    return described


def _path_parameters(path: str) -> Iterable[dict[str, Any]]:
    for part in path.split("/"):
        if part.startswith("{"):
            yield {
                "name": part.strip("{}"),
                "in": "path",
                "required": True,
                "schema": {"type": "string", "format": "uuid"},
            }


def _parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    for parameter in operation.parameters:
        yield {
            "name": parameter.name,
            "in": parameter.where,
            "required": False,
            "description": parameter.description,
            "schema": parameter.schema,
        }


def _responses(path: str, operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {str(status): _good(success) for status, success in operation.success.items()}
    for status in sorted(_problem_statuses(path, operation)):
        responses[str(status)] = {
            "description": _TITLES[status],
            "headers": _headers(_HEADERS.get(status, {})),
            "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
        }
    responses.update({str(status): _good(refusal) for status, refusal in operation.refusals.items()})
    return responses


def _problem_statuses(path: str, operation: Operation) -> set[int]:
    statuses = {*_OF_EVERY_CALL, *operation.problems}
    if operation.body is not None:
        statuses.update(_OF_EVERY_BODY)
    if operation.access:
        statuses.update(_OF_EVERY_TOKEN)
    if "{" in path:
        statuses.add(404)
    if any(parameter.where == "query" for parameter in operation.parameters):
        statuses.add(422)
    return statuses


def _good(success: Success) -> dict[str, Any]:
    described: dict[str, Any] = {"description": success.description, "headers": _headers(success.headers)}
    if success.body is not None:
        described["content"] = {success.media_type: {"schema": _schema(success.body)}}
    if success.links:
        described["links"] = {
            operation_id: {"operationId": operation_id, "parameters": dict(parameters)}
            for operation_id, parameters in success.links.items()
        }
    return described


def _headers(headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: {"description": says, "required": True, "schema": {"type": "string"}} for name, says in headers.items()
    }


def _schema(kind: Any) -> Any:
    (schema,), _ = msgspec.json.schema_components((kind,), schema_hook=_any_value, ref_template=_REF)
    return schema


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    kinds: list[Any] = [Problem]
    refinements: list[tuple[str, Mapping[str, Any]]] = []
    for operation in operations:
        refinements.extend(operation.refinements.items())
        replies = (*operation.success.values(), *operation.refusals.values())
        kinds.extend(reply.body for reply in replies if reply.body is not None)
        if operation.body is not None:
            kinds.append(operation.body)
    _, components = msgspec.json.schema_components(kinds, schema_hook=_any_value, ref_template=_REF)
    for name, refinement in refinements:
        _merge(components[name], refinement)
    _say_integer(components)
    return {**components, "JsonValue": _JSON_VALUE, "JsonObject": _JSON_OBJECT}


def _merge(schema: dict[str, Any], refinement: Mapping[str, Any]) -> None:
    for key, value in refinement.items():
        if isinstance(value, Mapping) and isinstance(schema.get(key), dict):
            _merge(schema[key], value)
        else:
            schema[key] = value


def _say_integer(schema: Any) -> None:
    """Say "integer" where a number is a multiple of one: the same to a validator, and plainer to people."""
    if isinstance(schema, dict):
        if schema.get("type") == "number" and schema.get("multipleOf") == 1:
            schema["type"] = "integer"
            del schema["multipleOf"]
        for part in schema.values():
            _say_integer(part)
    elif isinstance(schema, list):
        for part in schema:
            _say_integer(part)


def _any_value(kind: type) -> dict[str, Any]:
    if kind is object:
        return {"$ref": _REF.format(name="JsonValue")}
    raise NotImplementedError
