"""Writing files for sources that poll: with times that leave nothing to chance."""

import itertools
import os

_past = itertools.count(1_700_000_000)


def put(path, text):
    """Write a file that looks as if it was finished long ago, and differs in time from any other."""
    path.write_text(text)
    stamp = next(_past)
    os.utime(path, (stamp, stamp))
    return path


def remove(path, source):
    """Remove a file; a source believes that at its second look."""
    path.unlink()
    source.poll()
