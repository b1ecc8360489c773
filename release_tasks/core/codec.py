"""Convert records to camelCase JSON and back; an error names the path of each wrong value."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from release_tasks.core.canonical import InvalidDocument, excerpt

__all__ = ["decode", "encode", "findings"]

T = TypeVar("T")

_MAX_SHOWN = 5
_PATH_PART = re.compile(r"""\.(\w+)|\[('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^]]*)\]""")


def encode(record: Any) -> dict[str, Any]:
    """Return an attrs record as plain JSON values with camelCase keys."""
    value: dict[str, Any] = _converter().unstructure(record)
    return value


def decode(cls: type[T], value: dict[str, Any], name: str) -> T:
    """Build a ``cls`` from parsed JSON. Raises InvalidDocument, which names ``name`` and the first wrong keys."""
    try:
        return _converter().structure(value, cls)
    except Exception as error:
        found = findings(error)
        wrong = [
            f"{'.'.join(map(camel_case, path.split('.'))) or 'document'}: {excerpt(problem)}"
            for path, problem in found[:_MAX_SHOWN]
        ]
        if len(found) > _MAX_SHOWN:
            wrong.append("and more")
        raise InvalidDocument(f"{name} does not have the expected form ({'; '.join(wrong)})") from error


def findings(error: BaseException, path: str = "") -> list[tuple[str, str]]:
    """Flatten a cattrs validation error into pairs of a dotted path and a problem, all below ``path``."""
    leaves: list[BaseException] = []

    def collect(leaf: BaseException, _: type | None) -> str:
        leaves.append(leaf)
        return ""

    pairs: list[tuple[str, str]] = []
    for cattrs_path, leaf in zip(cattrs.transform_error(error, "", collect), leaves, strict=True):
        dotted = ".".join(filter(None, [path, *_path_parts(cattrs_path)]))
        if isinstance(leaf, ForbiddenExtraKeysError):
            pairs += [(f"{dotted}.{name}", leaf.message or "unknown key") for name in sorted(leaf.extra_fields)]
        elif isinstance(leaf, KeyError):  # cattrs has already appended the missing key's name to the path
            pairs.append((dotted or str(leaf.args[0]), "is missing"))
        else:
            pairs.append((dotted, str(leaf) or type(leaf).__name__))
    return pairs


def _path_parts(cattrs_path: str) -> list[str]:
    """Return the names, indices and keys of a path in cattrs' notation, ``.gates['build'].needs[0]``."""
    return [
        name or (str(ast.literal_eval(index)) if index.startswith(("'", '"')) else index)
        for name, index in _PATH_PART.findall(cattrs_path)
    ]


def camel_case(name: str) -> str:
    """Return ``some_name`` as ``someName``."""
    first, *others = name.split("_")
    return first + "".join(part.title() for part in others)


def _strict(kind: type) -> Any:
    def structure(value: Any, _: type) -> Any:
        # bool is an int in Python; in JSON it is not.
        if type(value) is not kind:
            raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")
        return value

    return structure


def _list_of(converter: cattrs.Converter, cls: Any) -> Any:
    (kind,) = cls.__args__
    structure_element = converter.get_structure_hook(kind)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError(f"expected list, got {type(value).__name__}")
        structured: list[Any] = []
        errors: list[Exception] = []
        for index, element in enumerate(value):
            try:
                structured.append(structure_element(element, kind))
            except Exception as error:
                note = IterableValidationNote(f"Structuring {cls} @ index {index}", index, kind)
                error.__notes__ = [*getattr(error, "__notes__", []), note]  # type: ignore[attr-defined]
                errors.append(error)
                if (
                    len(errors) > _MAX_SHOWN
                ):  # without this limit, the errors of a large wrong file would need gigabytes of memory
                    break
        if errors:
            raise cattrs.IterableValidationError(f"While structuring {cls}", errors, cls)
        return structured

    return structure


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _strict(kind))

    def names(cls: Any) -> dict[str, Any]:
        return {a.name: override(rename=camel_case(a.name)) for a in attrs.fields(cls)}

    def structure_record(cls: Any) -> Any:
        inner = make_dict_structure_fn(cls, converter, **names(cls))

        def structure(value: Any, kind: Any) -> Any:
            if not isinstance(value, dict):
                raise ValueError(f"expected object, got {type(value).__name__}")
            return inner(value, kind)

        return structure

    converter.register_structure_hook_factory(attrs.has, structure_record)
    converter.register_unstructure_hook_factory(
        attrs.has, lambda cls: make_dict_unstructure_fn(cls, converter, **names(cls))
    )
    converter.register_structure_hook_factory(
        lambda cls: getattr(cls, "__origin__", None) in (list, Sequence), functools.partial(_list_of, converter)
    )
    return converter
