"""Writes the tables anew, in the pages that have them."""

from __future__ import annotations

from pathlib import Path

from docs.reference import metrics, policy
from docs.reference.fill import fill

DOCS = Path(__file__).parents[1]
PAGES = {"metrics.md": metrics.TABLES, "policies.md": policy.TABLES}


def main() -> None:
    """Write them."""
    for name, tables in PAGES.items():
        page = DOCS / name
        page.write_text(fill(page.read_text(), tables))


if __name__ == "__main__":
    main()
