"""docs/openapi.yaml: the operations in it, and the same made to hit what a hub really has."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml"

_METHODS = ("get", "head", "put", "post", "delete")
COPY = "trace"
"""The method that stands for COPY where a library knows only those of OpenAPI 3.1."""


def load() -> dict[str, Any]:
    """The description as it is."""
    # As safe_load(), but in C: in Python it takes longer than any other module of the tests.
    description = yaml.load(FILE.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    assert isinstance(description, dict)
    return description


def routes(description: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The methods and paths, HEAD and COPY among them."""
    for path, item in description["paths"].items():
        for method in _METHODS:
            if method in item:
                yield method.upper(), path
        if "get" in item:
            yield "HEAD", path
        for method in item.get("additionalOperations", ()):
            yield method, path


def for_fuzzing(known: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The description with HEAD and COPY as operations of their own.

    `known` has values for parameters and schemas by their names: half of what is generated for
    them is among these. Where it names none, an unchanged description would hardly ever ask for a
    document that exists.
    """
    description = copy.deepcopy(load())
    for item in description["paths"].values():
        if "get" in item:
            item["head"] = copy.deepcopy(item["get"])
        for method, operation in item.pop("additionalOperations", {}).items():
            assert method == "COPY"
            item[COPY] = operation
        for each in [item, *(item[method] for method in (*_METHODS, COPY) if method in item)]:
            for parameter in each.get("parameters", ()):
                _make_known(parameter, known)
    components = description["components"]
    for parameter in components["parameters"].values():
        _make_known(parameter, known)
    schemas = components["schemas"]
    for name in ("Id", "Rev", "Endpoint"):
        schemas[name] = {"anyOf": [{"enum": known[name]}, schemas[name]]}
    for name in known["fields"]:
        schemas["Selector"]["properties"][name] = {"$ref": "#/components/schemas/Condition"}
    schemas["Sort"]["items"] = {"anyOf": [{"enum": known["sort"]}, schemas["Sort"]["items"]]}
    return description


def _make_known(parameter: dict[str, Any], known: Mapping[str, list[Any]]) -> None:
    values = known.get(parameter.get("name", ""))
    if values is not None and parameter["in"] != "path":
        parameter["schema"] = {"anyOf": [{"enum": values}, parameter["schema"]]}
