"""One key at a time: unknown keys, types, units, enumerations, names and addresses.

`problems` walks a parsed document along the types of the settings tree and yields everything that is wrong,
with a remedy. It decides what is allowed; msgspec then only builds the tree.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from msgspec import inspect

from deliver.configuration.problem import KeyPath, Problem
from deliver.configuration.texts import EXAMPLES, KINDS, Fault
from deliver.level import Level
from deliver.quantity import DURATION_REMEDY, SIZE_REMEDY, Duration, Size
from deliver.settings import Settings

MAY_BE_ZERO = frozenset(
    {"ocsp_skew", "cache_max_ttl", "lease_margin", "shutdown_grace", "quit", "failure_delay", "idle"}
)


def problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything wrong with single values of a whole document."""
    yield from _walk(document, settings_type(), ())


@cache
def settings_type() -> inspect.StructType:
    """The settings tree as msgspec describes it."""
    found = inspect.type_info(Settings)
    assert isinstance(found, inspect.StructType)
    return found


def type_at(path: KeyPath) -> inspect.Type | None:
    """The type of a key, `None` in it removed; None for an unknown key."""
    kind: inspect.Type = settings_type()
    for part in path:
        kind = section_of(kind)
        if not isinstance(kind, inspect.StructType):
            return None
        found = [field.type for field in kind.fields if field.encode_name == part]
        if not found:
            return None
        kind = found[0]
    return without_none(kind)


def section_of(kind: inspect.Type) -> inspect.Type:
    """The struct behind a type: for the tables of a rule, the section whose keys they override."""
    kind = without_none(kind)
    if isinstance(kind, inspect.Metadata) and "section" in (kind.extra or {}):
        name = (kind.extra or {})["section"]
        return next(field.type for field in settings_type().fields if field.encode_name == name)
    return kind


def without_none(kind: inspect.Type) -> inspect.Type:
    """`X` for `X | None`; any other type as it is."""
    if isinstance(kind, inspect.UnionType):
        rest = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def kind_of(kind: inspect.Type) -> str | None:
    """What a text must be (a key of KINDS), or None."""
    kind = without_none(kind)
    return (kind.extra or {}).get("kind") if isinstance(kind, inspect.Metadata) else None


def _walk(value: object, kind: inspect.Type, path: KeyPath) -> Iterator[Problem]:
    kind = section_of(kind)
    match kind:
        case inspect.StructType():
            yield from _table(value, kind, path)
        case inspect.VarTupleType():
            yield from _array(value, kind, path)
        case _:
            fault = _fault(value, kind, path)
            if fault:
                yield Problem(path, *fault)


def _table(value: object, kind: inspect.StructType, path: KeyPath) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield Problem(path, f"expected a table, found {_found(value)}", "write its keys under a [section]")
        return
    known = {field.encode_name: field for field in kind.fields}
    for name, inner in value.items():
        if name in known:
            yield from _walk(inner, known[name].type, (*path, name))
        else:
            yield Problem((*path, name), "there is no such key", _near(name, known))
    for name, field in known.items():
        if field.required and name not in value:
            yield Problem((*path, name), "it is missing", f"add {name} = {_example(field.type)}")


def _array(value: object, kind: inspect.VarTupleType, path: KeyPath) -> Iterator[Problem]:
    if not isinstance(value, (list, tuple)):
        inner = section_of(kind.item_type)
        example = "[[…]]" if isinstance(inner, inspect.StructType) else f"[{_example(inner)}]"
        yield Problem(path, f"expected an array, found {_found(value)}", f"write {example}")
        return
    for index, each in enumerate(value):
        yield from _walk(each, kind.item_type, (*path, index))


def _fault(value: object, kind: inspect.Type, path: KeyPath) -> Fault | None:
    match kind:
        case inspect.Metadata():
            return _fault(value, kind.type, path) or _unfit(value, kind)
        case inspect.EnumType() | inspect.LiteralType():
            return _not_allowed(value, kind)
        case inspect.CustomType():
            return _bad_quantity(value, kind.cls, path)
        case inspect.BoolType():
            if not isinstance(value, bool):
                return f"expected true or false, found {_found(value)}", "write true or false without quotes"
        case inspect.IntType():
            return _bad_integer(value, kind)
        case inspect.StrType():
            if not isinstance(value, str):
                return f"expected a text, found {_found(value)}", f'write it in quotes: "{value}"'
            if any(ord(character) < 32 and character not in "\n\t" for character in value):
                return "it has a control character", "remove it"
    return None


def _unfit(value: object, kind: inspect.Metadata) -> Fault | None:
    check = KINDS.get((kind.extra or {}).get("kind", ""))
    return check(value) if check and isinstance(value, str) else None


def _not_allowed(value: object, kind: inspect.EnumType | inspect.LiteralType) -> Fault | None:
    if isinstance(kind, inspect.EnumType):
        allowed = tuple(str(member.value) for member in kind.cls)
        if kind.cls is Level and value == "mta-sts":
            return "MTA-STS is no level: it raises each of them", "use dane, and tls.mta_sts = true"
    else:
        allowed = tuple(str(each) for each in kind.values)
    if value in allowed:
        return None
    remedy = "allowed are " + ", ".join(f'"{each}"' for each in allowed)
    if isinstance(value, str) and (near := difflib.get_close_matches(value, allowed, n=1)):
        remedy = f'did you mean "{near[0]}"? {remedy}'
    return f"{_found(value)} is not allowed here", remedy


def _bad_quantity(value: object, kind: type, path: KeyPath) -> Fault | None:
    assert issubclass(kind, (Duration, Size))
    remedy = DURATION_REMEDY if issubclass(kind, Duration) else SIZE_REMEDY
    try:
        quantity = kind.parse(value)
    except ValueError as error:
        return str(error), remedy
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    if isinstance(quantity, Duration) and not quantity and name not in MAY_BE_ZERO:
        return "it may not be 0", remedy
    return None


def _bad_integer(value: object, kind: inspect.IntType) -> Fault | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"expected a whole number, found {_found(value)}", "write a number without quotes"
    low, high = kind.ge, kind.le
    if (low is not None and value < low) or (high is not None and value > high):
        if high is None:
            return f"{value} is too small", f"write {low} or more"
        return f"{value} is out of range", f"write a number from {low} to {high}"
    return None


def _near(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _found(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return repr(value[:60])
        case int() | float():
            return f"the number {value}"
        case list() | tuple():
            return "an array"
        case Mapping():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def _example(kind: inspect.Type) -> str:
    match without_none(kind):
        case inspect.VarTupleType(item_type=item):
            return f"[{_example(item)}]"
        case inspect.LiteralType(values=values):
            return " or ".join(f'"{value}"' for value in values)
        case inspect.Metadata(extra=extra) if (extra or {}).get("kind") in EXAMPLES:
            return f'"{EXAMPLES[(extra or {})["kind"]]}"'
        case _:
            return '"…"'
