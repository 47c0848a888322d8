"""When a file has to be read again."""

import os

from dolphin_agent.manifests.watch import Look, Watch
from tests.files import put


def test_read_once(tmp_path):
    """A file is read when it is first seen, and not again while it stays the same."""
    watch = Watch(put(tmp_path / "f", "one"))

    assert [watch.look(), watch.look()] == [Look.CHANGED, Look.SAME]


def test_change(tmp_path):
    """A change is noticed by time even where the size stays the same."""
    path = put(tmp_path / "f", "one")
    watch = Watch(path)
    watch.look()
    put(path, "two")

    assert watch.look() == Look.CHANGED


def test_unsettled(tmp_path):
    """A file written a moment ago may be written again within the same tick of the clock: it is read again."""
    path = tmp_path / "f"
    path.write_text("one")
    watch = Watch(path)

    assert [watch.look(), watch.look()] == [Look.CHANGED, Look.CHANGED]


def test_half_written(tmp_path):
    """A known file that was written to a moment ago is left alone until it is quiet."""
    path = put(tmp_path / "f", "one")
    watch = Watch(path)
    watch.look()
    path.write_text("")

    assert watch.look() == Look.SAME
    put(path, "two")
    assert watch.look() == Look.CHANGED


def test_gone(tmp_path):
    """A known file counts as gone at the second look, as editors move files away for a moment; then it is new."""
    path = put(tmp_path / "f", "one")
    watch = Watch(path)
    watch.look()
    path.rename(tmp_path / "backup")

    assert [watch.look(), watch.look(), watch.look()] == [Look.SAME, Look.GONE, Look.GONE]
    put(path, "one")
    assert watch.look() == Look.CHANGED


def test_saved_by_renaming(tmp_path):
    """A file that was away for one look and came back changed is read, and was never gone."""
    path = put(tmp_path / "f", "one")
    watch = Watch(path)
    watch.look()
    path.rename(tmp_path / "backup")
    watch.look()
    put(path, "two")

    assert watch.look() == Look.CHANGED


def test_never_there(tmp_path):
    """A file that was never there is gone at once."""
    assert Watch(tmp_path / "f").look() == Look.GONE


def test_loop_of_links(tmp_path):
    """What cannot be looked at has to be read, as that tells the reason."""
    path = tmp_path / "f"
    path.symlink_to(path)
    watch = Watch(path)

    assert [watch.look(), watch.look()] == [Look.CHANGED, Look.CHANGED]


def test_clock_that_is_wrong(tmp_path):
    """A time in the future does not keep a change from being read."""
    path = put(tmp_path / "f", "one")
    watch = Watch(path)
    watch.look()
    path.write_text("two")
    os.utime(path, (4_000_000_000, 4_000_000_000))

    assert [watch.look(), watch.look()] == [Look.CHANGED, Look.SAME]
