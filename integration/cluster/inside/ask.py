"""Asks a server time and again, a connection each: `ask.py URL TIMES`."""

import sys
from urllib.request import urlopen

for _ in range(int(sys.argv[2])):
    with urlopen(sys.argv[1], timeout=9) as answer:  # noqa: S310 - the test's own
        answer.read()
