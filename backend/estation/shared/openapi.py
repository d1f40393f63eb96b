"""What programs may ask of us: an OpenAPI 3.1 document made from the routes themselves.

A handler says beside its guard what it reads, answers and refuses (`described`); address,
summary, guard and schemas come from the route and the types. Nothing is written twice.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import msgspec
from sanic import Sanic
from sanic_routing.route import Route

from estation.shared.bodies import BodyTooLarge, NotJson, WrongContentType
from estation.shared.errors import InvalidInput, NotFound, Refused, TooManyRequests

Handler = TypeVar("Handler", bound=Callable[..., Any])
Schema = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"
SECURITY: Mapping[str, Sequence[Schema]] = {
    "public": [{}, {"bearer": []}],
    "citizen": [{"bearer": []}, {"session": [], "form": []}],
    "staff": [{"bearer": []}, {"session": [], "form": []}],
}
SCHEMES: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "session": {"type": "apiKey", "in": "cookie", "name": "estation_session"},
    "form": {"type": "apiKey", "in": "header", "name": "x-csrf-token"},
}
PARAMETER_TYPES: Mapping[str, Schema] = {
    "uuid": {"type": "string", "format": "uuid"},
    "str": {"type": "string"},
    "ymd": {"type": "string", "format": "date"},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """`answers`: type of the JSON answer by status. `refuses`: what the route itself may say."""

    answers: Mapping[int, Any]
    body: type[msgspec.Struct] | None
    refuses: tuple[type[Refused], ...]


class BadRequest(Refused):
    """What stands in the document for a request that is no HTTP; app.py's words."""

    code = "bad_request"
    http_status = 400


class Unavailable(Refused):
    """What stands in the document for a lost database or a late answer; app.py's words."""

    code = "unavailable"
    http_status = 503


def described(
    *,
    answers: Mapping[int, Any],
    body: type[msgspec.Struct] | None = None,
    refuses: Sequence[type[Refused]] = (),
) -> Callable[[Handler], Handler]:
    """Say what a JSON handler reads, answers and refuses. Stands directly above the handler."""

    def remember(handler: Handler) -> Handler:
        vars(handler)["operation"] = Operation(answers, body, tuple(refuses))
        return handler

    return remember


def shape(
    name: str, view: Any, *, without: Iterable[str] = (), **more: Any
) -> type[msgspec.Struct]:
    """A view's fields as JSON shows them (or none), some left out and others added."""
    hints, left_out = get_type_hints(view) if view else {}, set(without)
    kept = [(field, kind) for field, kind in hints.items() if field not in left_out]
    return msgspec.defstruct(name, [*kept, *more.items()], forbid_unknown_fields=True)


def document(
    app: Sanic[Any, Any], *, title: str, guards: Mapping[str, Sequence[type[Refused]]]
) -> Schema:
    """The document of every described route; `guards` says what each guard may refuse."""
    described_routes = sorted(
        (route for route in app.router.routes if _operation(route) is not None),
        key=lambda route: route.path,
    )
    schemas, components = _schemas(described_routes)
    paths: dict[str, Schema] = {}
    for route in described_routes:
        path, parameters = _address(route)
        for method in sorted(route.methods):
            paths.setdefault(path, {})[method.lower()] = {
                "operationId": route.handler.__name__,
                "summary": (route.handler.__doc__ or "").strip().partition("\n")[0],
                "security": list(SECURITY[_guard(route)]),
                "parameters": parameters,
                **_body(route, schemas),
                "responses": _responses(route, schemas, guards),
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SCHEMES},
    }


def _operation(route: Route) -> Operation | None:
    operation: Operation | None = getattr(route.handler, "operation", None)
    return operation


def _guard(route: Route) -> str:
    return str(getattr(route.handler, "guard", "public"))


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """Type -> its schema, and the named ones that these refer to."""
    types: list[Any] = []
    for route in routes:
        operation = _operation(route)
        if operation is not None:
            types += [*operation.answers.values(), *([operation.body] if operation.body else [])]
    unique = list(dict.fromkeys(types))
    found, components = msgspec.json.schema_components(unique, ref_template=REFERENCE)
    return dict(zip(unique, found, strict=True)), components


def _address(route: Route) -> tuple[str, list[Schema]]:
    """`/api/orders/<order_id:uuid>` -> `/api/orders/{order_id}` and its parameters."""
    words, parameters = [], []
    for part in route.path.strip("/").split("/"):
        if not part.startswith("<"):
            words.append(part)
            continue
        name, _, kind = part.strip("<>").partition(":")
        words.append(f"{{{name}}}")
        schema = PARAMETER_TYPES[kind or "str"]
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    return "/" + "/".join(words), parameters


def _body(route: Route, schemas: Mapping[Any, Schema]) -> Schema:
    operation = _operation(route)
    if operation is None or operation.body is None:
        return {}
    return {"requestBody": {"required": True, "content": _json(schemas[operation.body])}}


def _responses(
    route: Route,
    schemas: Mapping[Any, Schema],
    guards: Mapping[str, Sequence[type[Refused]]],
) -> Schema:
    operation = _operation(route)
    answers = operation.answers if operation else {}
    responses: Schema = {
        str(status): {"description": "done", "content": _json(schemas[answer])}
        for status, answer in answers.items()
    }
    by_status: dict[int, set[str]] = {}
    for refusal in _refusals(route, guards):
        by_status.setdefault(refusal.http_status, set()).add(refusal.code)
    for status, codes in sorted(by_status.items()):
        content = _json(refusal_schema(codes))
        responses[str(status)] = {"description": ", ".join(sorted(codes)), "content": content}
    return responses


def _refusals(route: Route, guards: Mapping[str, Sequence[type[Refused]]]) -> list[type[Refused]]:
    """What the route says, its guard says, and the way to it says."""
    operation = _operation(route)
    refusals: list[type[Refused]] = [BadRequest, TooManyRequests, Unavailable, BodyTooLarge]
    refusals += guards[_guard(route)]
    if "<" in route.path:
        refusals.append(NotFound)
    if operation is not None and operation.body is not None:
        refusals += [WrongContentType, NotJson, InvalidInput]
    return [*refusals, *(operation.refuses if operation else ())]


def refusal_schema(codes: Iterable[str]) -> Schema:
    """The one shape of every refusal, with the codes that may stand in it."""
    return {
        "type": "object",
        "required": ["code", "message", "details"],
        "additionalProperties": False,
        "properties": {
            "code": {"type": "string", "enum": sorted(codes)},
            "message": {"type": "string", "minLength": 1},
            "details": {"type": "object"},
        },
    }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
