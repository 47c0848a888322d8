"""The validate command's work."""

from pathlib import Path

from dolphin_agent.policy.validate import validate_files
from tests.files import put
from tests.policy.table import monitor

GOOD = monitor("{ip: {ipSend: {}}}")


def check(*paths):
    """The lines printed and the number of right policies."""
    faults, right = validate_files(paths)
    return [str(fault) for fault in faults], right


def test_examples():
    """Of the two examples one is right and one is not."""
    lines, right = check(Path(__file__).parent / "examples")

    assert (len(lines), right) == (1, 1)


def test_right(tmp_path):
    """Right policies are counted over all files."""
    two = put(tmp_path / "two.yaml", f"{GOOD}---\n{GOOD.replace('name: a', 'name: b')}")

    assert check(two, put(tmp_path / "one.yaml", GOOD)) == ([], 3)


def test_every_fault_of_every_file(tmp_path):
    """Faults come file by file; right documents count all the same."""
    bad = put(tmp_path / "bad.yaml", f"{GOOD}---\n{monitor('{}').replace('name: a', 'name: b')}")
    lines, right = check(bad, tmp_path / "none.yaml", put(tmp_path / "broken.yaml", "a: ["))

    assert right == 1
    assert [line.split(": ")[0] for line in lines] == [
        f"{tmp_path}/bad.yaml:11",
        f"{tmp_path}/none.yaml",
        f"{tmp_path}/broken.yaml:1",
    ]
    assert lines[1] == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"


def test_no_policy(tmp_path):
    """A file or directory without any policy is a fault: silence would look like success."""
    directory = tmp_path / "empty"
    directory.mkdir()

    assert check(put(tmp_path / "a.yaml", "# nothing\n"), directory) == (
        [
            f"{tmp_path}/a.yaml: there is no MonitorPolicy in it",
            f"{directory}: there is no .yaml, .yml, .json file in this directory",
        ],
        0,
    )


def test_name_with_a_line_break(tmp_path):
    """A fault is one line, even of a file with an odd name."""
    (line,), _ = check(tmp_path / "a\nb.yaml")

    assert line == f"{tmp_path}/a\\nb.yaml: cannot be read: No such file or directory"
