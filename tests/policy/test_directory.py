"""Policies from a watched directory."""

import os

import pytest

from dolphin_agent.errors import ConfigError
from dolphin_agent.policy.directory import PolicyDirectory
from dolphin_agent.policy.vocabulary import MAX_TASKS, Granularity
from tests.files import put, remove
from tests.policy.table import monitor


def policy(name="a", granularity="pod"):
    """A manifest with one item."""
    return monitor(f"{{ip: {{ipSend: {{aggregateType: {granularity}}}}}}}").replace("name: a,", f"name: {name},")


def tasks(source):
    """What runs, and at which granularity."""
    return {task.removeprefix("kube-system/"): str(p.monitor["ipSend"]) for task, p in source.policies.items()}


def problems(source):
    """What is complained about."""
    return [str(problem) for problem in source.problems]


@pytest.fixture
def directory(tmp_path):
    """An empty directory."""
    path = tmp_path / "policies"
    path.mkdir()
    return path


@pytest.fixture
def source(directory):
    """The policies of `directory`."""
    return PolicyDirectory(directory)


def test_missing_at_start(tmp_path):
    """A directory that is not there is a configuration error with the remedy."""
    with pytest.raises(ConfigError, match="No such file or directory; create it, or name another with --policies"):
        PolicyDirectory(tmp_path / "nowhere")


def test_file_as_directory(tmp_path):
    """So is a file in its place."""
    with pytest.raises(ConfigError, match="Not a directory"):
        PolicyDirectory(put(tmp_path / "a.yaml", policy()))


def test_life_of_a_file(directory, source):
    """Files are added, changed and removed; a poll is True exactly when that changed something."""
    assert (source.poll(), tasks(source)) == (False, {})
    put(directory / "a.yaml", policy("a"))
    put(directory / "b.json", policy("b"))
    assert (source.poll(), tasks(source)) == (True, {"a": "pod", "b": "pod"})
    assert not source.poll()
    put(directory / "a.yaml", policy("a", "flow"))
    assert (source.poll(), tasks(source)) == (True, {"a": "flow", "b": "pod"})
    remove(directory / "a.yaml", source)
    assert (source.poll(), tasks(source)) == (True, {"b": "pod"})
    assert source.problems == ()


def test_rewritten_the_same(directory, source):
    """A file written again as it was, or with other comments, changes nothing."""
    put(directory / "a.yaml", policy())
    source.poll()
    put(directory / "a.yaml", f"# a comment\n{policy()}")

    assert not source.poll()


def test_other_files(directory, source):
    """Hidden files and other suffixes are not policies."""
    for name in (".a.yaml", "a.yaml.swp", "README.md", ".a.yaml.swp"):
        put(directory / name, policy())

    assert not source.poll()


def test_document_removed(directory, source):
    """A document taken out of a file takes its policy away, and only that one."""
    put(directory / "a.yaml", f"{policy('a')}---\n{policy('b')}")
    source.poll()
    put(directory / "a.yaml", policy("b"))

    assert (source.poll(), tasks(source), source.problems) == (True, {"b": "pod"}, ())


def test_turned_invalid(directory, source):
    """A policy that turns invalid keeps running as it was; its neighbour in the file follows the change."""
    put(directory / "a.yaml", f"{policy('a')}---\n{policy('b')}")
    source.poll()
    put(directory / "a.yaml", f"{policy('a', 'fow')}---\n{policy('b', 'flow')}")

    assert (source.poll(), tasks(source)) == (True, {"a": "pod", "b": "flow"})
    (problem,) = problems(source)
    assert problem == (
        f'{directory}/a.yaml:5: spec.monitor.ip.ipSend.aggregateType "fow": must be pod or flow; '
        "did you mean flow?; kube-system/a keeps running in its last good form"
    )
    put(directory / "a.yaml", f"{policy('a', 'flow')}---\n{policy('b', 'flow')}")
    assert (source.poll(), tasks(source), source.problems) == (True, {"a": "flow", "b": "flow"}, ())


def test_moved_to_a_wrong_namespace(directory, source):
    """A policy whose namespace turns wrong is still that policy."""
    put(directory / "a.yaml", policy())
    source.poll()
    put(directory / "a.yaml", policy().replace("kube-system", "kube-sytem"))

    assert (source.poll(), tasks(source)) == (True, {"a": "pod"})


def test_name_lost(directory, source):
    """A document without a name may be any of those missed, so none of them is taken away."""
    put(directory / "a.yaml", f"{policy('a')}---\n{policy('b')}")
    source.poll()
    put(directory / "a.yaml", f"{policy('a')}---\n{policy('b').replace('name: b,', '')}")

    assert (source.poll(), tasks(source)) == (True, {"a": "pod", "b": "pod"})
    assert "kube-system/b keeps running" in problems(source)[0]


def test_invalid_from_the_start(directory, source):
    """A policy that never was right does not run."""
    put(directory / "a.yaml", policy("a", "fow"))

    assert (source.poll(), tasks(source), len(source.problems)) == (True, {}, 1)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"spec: [", "YAML cannot be read"),
        (b"caf\xe9", "not UTF-8"),
        (b"x: " + b"y" * (1 << 20), "bigger than 1 MiB"),
    ],
    ids=["yaml", "encoding", "size"],
)
def test_malformed(directory, source, data, part):
    """A file that cannot be read keeps all its policies running."""
    put(directory / "a.yaml", f"{policy('a')}---\n{policy('b')}")
    source.poll()
    (directory / "a.yaml").write_bytes(data)
    os.utime(directory / "a.yaml", (1, 1))

    assert (source.poll(), tasks(source)) == (True, {"a": "pod", "b": "pod"})
    (problem,) = problems(source)
    assert part in problem
    assert "kube-system/a keeps running in its last good form" in problem


def test_half_written(directory, source):
    """A file caught half-written neither stops its policy nor raises a problem, and converges."""
    path = put(directory / "a.yaml", policy())
    source.poll()
    path.write_text(policy("a", "flow")[:90])
    assert (source.poll(), tasks(source)) == (False, {"a": "pod"})
    put(path, policy("a", "flow"))

    assert (source.poll(), tasks(source), source.problems) == (True, {"a": "flow"}, ())


def test_not_a_file(directory, source):
    """A pipe or a directory with a manifest's name is a problem of its own and blocks nothing."""
    os.mkfifo(directory / "a.yaml")
    (directory / "b.yaml").mkdir()
    put(directory / "c.yaml", policy("c"))

    assert (source.poll(), tasks(source)) == (True, {"c": "pod"})
    assert problems(source) == [f"{directory}/{name}.yaml: not a regular file" for name in "ab"]


def test_unreadable(directory, source):
    """A file that cannot be opened is a problem of that file only, and keeps its policies."""
    put(directory / "a.yaml", policy("a"))
    put(directory / "b.yaml", policy("b"))
    source.poll()
    (directory / "a.yaml").unlink()
    (directory / "a.yaml").symlink_to("a.yaml")  # fails for root too, unlike a lack of permission

    assert (source.poll(), tasks(source)) == (True, {"a": "pod", "b": "pod"})
    assert [problem.subject for problem in source.problems] == [f"{directory}/a.yaml"]


def test_config_map_volume(tmp_path, directory, source):
    """A ConfigMap volume, where every file is a link through `..data`, is followed when that link is swapped."""
    for version, granularity in (("..v1", "pod"), ("..v2", "flow")):
        (directory / version).mkdir()
        put(directory / version / "a.yaml", policy("a", granularity))
    (directory / "..data").symlink_to("..v1")
    (directory / "a.yaml").symlink_to("..data/a.yaml")
    assert (source.poll(), tasks(source)) == (True, {"a": "pod"})
    (tmp_path / "new").symlink_to("..v2")
    (tmp_path / "new").rename(directory / "..data")

    assert (source.poll(), tasks(source)) == (True, {"a": "flow"})


def test_directory_vanishes(tmp_path, directory, source):
    """When the directory vanishes its policies run on, with a problem, until it is back."""
    put(directory / "a.yaml", policy())
    source.poll()
    directory.rename(tmp_path / "away")
    assert (source.poll(), tasks(source), source.poll()) == (True, {"a": "pod"}, False)
    assert problems(source) == [
        f"{directory}: No such file or directory; its policies keep running in their last good form"
    ]
    (tmp_path / "away").rename(directory)

    assert (source.poll(), tasks(source), source.problems) == (True, {"a": "pod"}, ())


def test_task_in_two_files(directory, source):
    """Of two files with the same task the one known first runs, whatever its name; the problem names both."""
    put(directory / "b.yaml", policy("x", "pod"))
    source.poll()
    put(directory / "a.yaml", policy("x", "flow"))
    assert (source.poll(), tasks(source)) == (True, {"x": "pod"})
    (problem,) = problems(source)
    assert problem == (
        f"kube-system/x is defined in {directory}/a.yaml and in {directory}/b.yaml; "
        f"the one in {directory}/b.yaml runs, remove the others"
    )
    remove(directory / "b.yaml", source)

    assert (source.poll(), tasks(source), source.problems) == (True, {"x": "flow"}, ())


def test_too_many(directory, source):
    """Beyond 32 tasks the last by name are refused by name; what runs already is never displaced."""
    put(directory / "b.yaml", "---\n".join(policy(f"b{index:02}") for index in range(MAX_TASKS + 1)))
    source.poll()
    assert list(tasks(source)) == [f"b{index:02}" for index in range(MAX_TASKS)]
    put(directory / "a.yaml", policy("a"))
    source.poll()

    assert list(tasks(source)) == [f"b{index:02}" for index in range(MAX_TASKS)]
    most = "the most a node takes; remove one"
    assert problems(source) == [
        f"{directory}/{file}.yaml: kube-system/{name} is refused: {MAX_TASKS} policies run already, {most}"
        for file, name in (("a", "a"), ("b", "b32"))
    ]


def test_published_values_do_not_change(directory, source):
    """What another thread holds stays as it was."""
    put(directory / "a.yaml", policy())
    source.poll()
    held = source.policies
    put(directory / "a.yaml", policy("a", "flow"))
    source.poll()

    assert held["kube-system/a"].monitor == {"ipSend": Granularity.POD}
