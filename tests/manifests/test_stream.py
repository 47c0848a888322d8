"""Reading YAML: files that are none, or too much of it."""

import pytest

from dolphin_agent.manifests import stream
from dolphin_agent.manifests.stream import parse_stream, read_stream

FLAT = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
BOMB = FLAT + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: [1\nb: 2\n", 2, "YAML cannot be read: while parsing a flow sequence"),
        ("a: 1\n\tb: 2\n", 2, "indent with spaces, not tabs"),
        ("a: b: c\n", 1, "mapping values are not allowed here"),
        ("a: *nobody\n", 1, "found undefined alias 'nobody'"),
        ("a: &a {b: *a}\n", 1, "or without end"),
        ("a: \x00\n", 1, "control characters are not allowed"),
        ("a: 1\nb: " + "[" * 1000, 2, "nested deeper than 64 levels"),
        (BOMB, 1, "more than 100000 values, counting aliases"),
        ("# " + "x" * stream.MAX_BYTES, 0, "bigger than 1 MiB"),
    ],
    ids=["unclosed", "tab", "colon", "alias", "recursion", "control", "depth", "bomb", "size"],
)
def test_malformed(text, line, part):
    """A file that cannot be read as YAML says where and why, and has no documents, not even the first ones."""
    parsed = parse_stream(f"first: document\n---\n{text}" if line else text, "p.yaml")

    assert parsed.documents == ()
    assert parsed.malformed.line == (line + 2 if line else 0)
    assert part in str(parsed.malformed)


@pytest.mark.parametrize("value", ["9" * 5000, "!!bool maybe", "!!int x"], ids=["huge", "bool", "int"])
def test_scalar_that_is_not_what_it_seems(value):
    """A number or boolean that Python cannot make is a fault of that document only."""
    (document,) = parse_stream(f"a: {value}\nb: 1\n", "p.yaml").documents

    assert document.value == {"a": None, "b": 1}
    assert [fault.field for fault in document.faults] == ["a"]


def test_not_utf8(tmp_path):
    """A file in another encoding names the first wrong byte's line."""
    path = tmp_path / "p.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")

    assert str(read_stream(path).malformed) == f"{path}:2: not UTF-8: byte 0xe9; save the file as UTF-8"


def test_list_gives_its_items():
    """`kind: List` stands for its items; each knows its own lines."""
    (document,) = parse_stream("kind: List\nitems:\n- kind: Pod\n  a:\n    b: 1\n", "p.yaml").documents

    assert document.value == {"kind": "Pod", "a": {"b": 1}}
    assert document.locate(("a", "b")).line == 5
    assert document.locate(("a", "missing")).line == 4


def test_empty():
    """Nothing, comments and empty documents are no documents, and no fault."""
    assert parse_stream("# nothing\n---\n---\n", "p.yaml") == stream.Stream("p.yaml")


def test_byte_order_mark():
    """A byte order mark, which some editors write, is not part of the first field."""
    (document,) = parse_stream("\ufeffa: 1\n", "p.yaml").documents

    assert document.value == {"a": 1}
