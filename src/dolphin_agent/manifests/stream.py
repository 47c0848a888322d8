"""YAML text -> documents that know where each of their values was written.

Documents are built from PyYAML's node graph and not by `yaml.safe_load`, which forgets lines and lets the last
of two equal keys win. Input is bounded (bytes, values, depth): no file can stall or exhaust a node agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from dolphin_agent.manifests.fault import Fault, FieldPath, field_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES = 1 << 20
"""A bigger file is refused; a thousand policies, or 150 pods as kubectl prints them, fit."""
MAX_VALUES = 100_000
"""Values in a file, those behind an alias counted each time, so that nested aliases cannot multiply."""
MAX_DEPTH = 64
"""Levels of nesting; Python's own recursion limit is never near."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("null", "bool", "int", "float"))
# Kubernetes has neither dates nor YAML's "=": both are ordinary text to it.
_TEXTS = frozenset(_TAG + name for name in ("str", "timestamp", "value"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written."""

    line: int
    """Counted from 1; that of the nearest enclosing value where the value itself is missing; 0: unknown."""
    written: str | None = None
    """A scalar exactly as in the file (`yes`, where the value is True); None if unknown or not a scalar."""


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a stream, as JSON-like values."""

    file: str
    value: object
    """dict (keys are str), list, str, int, float, bool or None."""
    faults: tuple[Fault, ...]
    """What cannot be expressed in a Kubernetes object: repeated fields, keys and values of other types."""
    node: yaml.Node

    def locate(self, path: FieldPath) -> Place:
        """Find the line of the value at `path`, or of what should hold it."""
        node, line = self.node, _line(self.node)
        for step in path:
            found = _step(node, step)
            if found is None:
                return Place(line)
            line, node = found
        return Place(line, node.value if isinstance(node, yaml.ScalarNode) else None)


@dataclass(frozen=True, slots=True)
class Stream:
    """Everything a file holds."""

    file: str
    documents: tuple[Document, ...] = ()
    """In the order written; a `kind: List` is replaced by its items, empty documents are left out."""
    malformed: Fault | None = None
    """Why the file as a whole cannot be read; then there are no documents."""


def read_stream(path: Path) -> Stream:
    """Read the file at `path`; any failure, the operating system's included, is in `malformed`."""
    file = str(path)
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            return Stream(file, malformed=Fault(file, 0, "", None, "not a regular file"))
        with path.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        return Stream(file, malformed=Fault(file, 0, "", None, f"cannot be read: {error.strerror}"))
    if len(data) > MAX_BYTES:
        return _too_big(file)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
        return Stream(file, malformed=Fault(file, line, "", None, message))
    return parse_stream(text, file)


def parse_stream(text: str, file: str) -> Stream:
    """Parse YAML (or JSON) text; `file` is the name that faults carry."""
    if len(text) > MAX_BYTES:
        return _too_big(file)
    try:
        return Stream(file, tuple(_documents(text, file)))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = "YAML cannot be read: control characters are not allowed; is this a text file?"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        message = "YAML cannot be read: " + ", ".join(part for part in (error.context, error.problem) if part)
        if error.problem and "'\\t'" in error.problem:
            message += "; indent with spaces, not tabs"
    return Stream(file, malformed=Fault(file, line, "", None, message))


def _too_big(file: str) -> Stream:
    return Stream(file, malformed=Fault(file, 0, "", None, f"bigger than {MAX_BYTES >> 20} MiB; split it"))


def _documents(text: str, file: str) -> Iterator[Document]:
    loader = _Loader(text)
    builder = _Builder(loader, file)
    while loader.check_node():
        root = loader.get_node()
        for node in _items(root) if root else ():
            if not _is_null(node):
                yield builder.document(node)


def _items(root: yaml.Node) -> list[yaml.Node]:
    """What `kubectl get` prints for several objects is one `kind: List` object that holds them."""
    kind, items = _step(root, "kind"), _step(root, "items")
    if kind and items and isinstance(kind[1].value, str) and kind[1].value.endswith("List"):
        return items[1].value if isinstance(items[1], yaml.SequenceNode) else [root]
    return [root]


def _step(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    """Go one step down: (line, node). A field's line is that of its key; the first of equal keys counts."""
    if isinstance(node, yaml.MappingNode):
        return next(((_line(key), value) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return _line(node.value[step]), node.value[step]
    return None


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"


class _Loader(yaml.SafeLoader):
    """PyYAML's own loader, which otherwise recurses as deep as the text is nested."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.depth == MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", self.get_mark())
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Builder:
    """Turns nodes into values, within the bounds; one per stream."""

    def __init__(self, loader: _Loader, file: str) -> None:
        self._loader = loader
        self._file = file
        self._values = 0
        self._faults: list[Fault] = []

    def document(self, node: yaml.Node) -> Document:
        self._faults = []
        value = self._build(node, ())
        return Document(self._file, value, tuple(self._faults), node)

    def _build(self, node: yaml.Node, path: FieldPath) -> object:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES} values, counting aliases", node.start_mark)
        if len(path) > MAX_DEPTH:
            raise _refused(f"aliases nested deeper than {MAX_DEPTH} levels, or without end", node.start_mark)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, object]:
        fields: dict[str, object] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag == _TAG + "merge":
                self._fault(key_node, path, "merging (<<) is not supported; write the fields out")
            elif not isinstance(key, str):
                self._fault(key_node, path, "a field name must be a string, not a mapping or a list")
            elif key_node.tag not in _TEXTS:
                self._fault(key_node, (*path, key), "a field name must be a string; quote it")
            elif key in fields:
                message = f"given twice, first on line {lines[key]}; remove one of them"
                self._fault(key_node, (*path, key), message)
            else:
                lines[key] = _line(key_node)
                fields[key] = self._build(value_node, (*path, key))
        return fields

    def _scalar(self, node: yaml.Node, path: FieldPath) -> object:
        if node.tag in _TEXTS:
            return str(node.value)
        try:
            if node.tag in _SCALARS:
                return self._loader.construct_object(node)
            message = f"the YAML tag {node.tag.removeprefix(_TAG)} is not supported; remove it"
        except (ValueError, KeyError):  # a number of ten thousand digits, `!!bool maybe`
            message = f"cannot be read as {node.tag.removeprefix(_TAG)}; quote it if it is text"
        self._fault(node, path, message)
        return None

    def _fault(self, node: yaml.Node, path: FieldPath, message: str) -> None:
        self._faults.append(Fault(self._file, _line(node), field_name(path), None, message))


def _refused(problem: str, mark: yaml.Mark | None) -> ComposerError:
    return ComposerError(None, None, problem, mark)
