"""Checks JSON that this program wrote against a schema, wherever such a file is read.

A schema is a type (float: any finite number up to LARGEST; int: a count; object: anything), a tuple of allowed values,
a list with the schema of its items, an object of schemas by key, a function from an object to its schema, or a
dataclass, whose fields are keys. A key that ends with ? may be missing or null; * is any key.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from seqsetvae.system.errors import InputError
from seqsetvae.system.files import read_json

LARGEST = 1e12  # of a number in a result: NaN and infinite ones are faults
NUMBER = "number"  # of a dataclass: any finite one that float32 holds


def read_checked(file: Path, schema: Any, remedy: str = "") -> dict[str, Any]:
    """The object in a file, without entries that are null. Raises InputError with the first fault, and the remedy."""
    content = read_json(file)
    fault = fault_of(content, schema)
    if fault is not None:
        raise InputError(f"{file}: damaged ({fault}).{remedy and ' ' + remedy}")
    return {name: value for name, value in content.items() if value is not None}


def fault_of(value: Any, schema: Any, at: str = "") -> str | None:
    """The first difference between a value and its schema, with its path; None if there is none."""
    parts: list[tuple[Any, Any, str]] = []
    if is_dataclass(schema):
        schema = schema_of(schema)
    if callable(schema) and not isinstance(schema, type):
        return fault_of(value, schema(value) if isinstance(value, dict) else {}, at)
    if isinstance(schema, list) and isinstance(value, list | tuple):
        parts = [(item, schema[0], f"{at}[{place}]") for place, item in enumerate(value)]
    elif isinstance(schema, dict) and isinstance(value, dict):
        for key, item_schema in schema.items():
            name = key.removesuffix("?")
            if key == "*":
                parts += [(item, item_schema, f"{at}/{other}".lstrip("/")) for other, item in value.items()]
            elif value.get(name) is not None:
                parts.append((value[name], item_schema, f"{at}/{name}".lstrip("/")))
            elif name == key:
                return f"{name!r} is missing" + f" in {at}" * bool(at)
    elif not _has_type(value, schema):
        return f"{at} is {value!r:.60}, which has the wrong type"
    return next((fault for part in parts if (fault := fault_of(*part)) is not None), None)


def _has_type(value: Any, kind: Any) -> bool:
    if kind in (float, NUMBER):
        largest = LARGEST if kind is float else 1e30
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < largest
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    return value in kind if isinstance(kind, tuple) else isinstance(kind, type) and isinstance(value, kind)


def schema_of(kind: Any) -> Any:
    """The schema of values with this annotation: a dataclass, str, int, float, tuple, dict, or one of them or None."""
    if is_dataclass(kind):
        hints = [(field.name, get_type_hints(kind)[field.name]) for field in fields(kind)]
        return {name + "?" * (NoneType in get_args(hint)): schema_of(hint) for name, hint in hints}
    inner = [argument for argument in get_args(kind) if argument not in (NoneType, Ellipsis)]
    if get_origin(kind) is tuple:
        return [schema_of(inner[0])]
    if get_origin(kind) is dict:
        return {"*": schema_of(inner[1])}
    return schema_of(inner[0]) if inner else NUMBER if kind is float else kind
