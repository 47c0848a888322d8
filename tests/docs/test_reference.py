"""What docs/ say of fields and metrics: what the code declares, and every example a right policy."""

import re

import pytest

from docs.reference.__main__ import DOCS, PAGES
from docs.reference.fill import fill
from dolphin_agent.policy.parse import parse_policies

POLICY = re.compile(r"```yaml\n(apiVersion: crd\.dolphin\.io.*?)```", re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_what_is_declared(name):
    """`make docs` was run after the last change, and every table is in the page."""
    page = (DOCS / name).read_text()
    assert fill(page, PAGES[name]) == page
    assert all(f"<!-- make docs: {one} -->" in page for one in PAGES[name])


def test_examples_are_right():
    """Every policy that docs/ and the README show."""
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    examples = [(page.name, text) for page in pages for text in POLICY.findall(page.read_text())]
    assert {"policies.md", "health.md", "README.md"} <= {name for name, _ in examples}
    for name, text in examples:
        parsed = parse_policies(text, name)
        assert parsed.policies, name
        assert not parsed.faulty, parsed


def test_links_lead_somewhere():
    """Pages and their headings, as GitHub names them."""
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CHANGELOG.md"):
        for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#?)([^)]*)\)", page.read_text()):
            file = page.parent / target if target else page
            assert file.exists(), (page.name, target)
            assert not anchor or anchor in headings(file.read_text()), (page.name, target, anchor)


def headings(text):
    """The anchors of a page."""
    names = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}
