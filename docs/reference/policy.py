"""The fields of a MonitorPolicy, as the API server knows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from docs.reference.fill import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

CRD = Path(__file__).parents[2] / "helm/dolphin-agent/crds/monitorpolicies.yaml"

Schema = dict[str, Any]


def fields() -> str:
    """Every field of the spec with what it may be."""
    schema = _versions()["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rows = (
        (f"`{path}`", _type(one), _default(one), _bounds(one), one["description"]) for path, one in _walk(schema, "")
    )
    return table(("field of spec", "type", "default", "bounds", ""), rows)


def items() -> str:
    """Every item with its granularities."""
    groups = _versions()["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["monitor"]["properties"]
    rows = (
        (f"`{group}.{name}`", code(word for word in choice["enum"] if word), _default(choice), item["description"])
        for group, fields in groups.items()
        for name, item in fields["properties"].items()
        for choice in (item["properties"]["aggregateType"],)
    )
    return table(("field of spec.monitor", "aggregateType", "default", ""), rows)


def _versions() -> Schema:
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    return dict(version)


def _walk(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """All but the items, which have a table of their own."""
    for name, below in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        yield where, below
        if name != "monitor":
            yield from _walk(below.get("items", below), where)


def _type(schema: Schema) -> str:
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}s" if schema["items"]["type"] != "object" else "list"
    return "mapping" if schema["type"] == "object" else str(schema["type"])


def _default(schema: Schema) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else ""


def _bounds(schema: Schema) -> str:
    """Of the value, or of a list's entries."""
    inner = schema.get("items", schema)
    found = [code(word for word in inner["enum"] if word)] if "enum" in inner else []
    if "minimum" in inner:
        found.append(f"{inner['minimum']} to {inner['maximum']}")
    if "maxLength" in inner:
        found.append(f"at most {inner['maxLength']} characters")
    if "maxItems" in schema:
        found.append(f"at most {schema['maxItems']} entries")
    if "maxProperties" in schema:
        found.append(f"at most {schema['maxProperties']} keys")
    return "; ".join(found)


TABLES = {"fields": fields, "items": items}
