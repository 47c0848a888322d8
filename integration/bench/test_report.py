"""Results are compared, and shown, as `make bench` promises. Runs on the machine: no guest is needed."""

from __future__ import annotations

import pytest

from integration.bench.report import Measured, compare, markdown, parse, table, text, updated

ROW = "pod, IPv4: ip_rcv_core"


def measured(value: float | None) -> dict[str, Measured]:
    """One row on one kernel."""
    return {"6.1": Measured({ROW: value})}


def test_results_survive_the_way_to_the_machine() -> None:
    """Nothing is lost, nor is a program that did not run taken for a free one."""
    left = Measured({ROW: 279.0, "flow": None}, ["pod: the agent exports nothing"])
    assert parse(left.to_json()) == left


@pytest.mark.parametrize("left", ["", "{}", "[]", '{"rows": {}}'])
def test_other_text_is_no_result(left: str) -> None:
    """A file that a guest did not finish is refused."""
    with pytest.raises(ValueError, match=r"not the results|Expecting value"):
        parse(left)


@pytest.mark.parametrize(
    ("before", "now", "fails"),
    [
        (100, 100, False),
        (100, 103, False),  # 3 %
        (100, 103.1, True),
        (40, 42, False),  # more than 3 %, but 2 instructions
        (40, 42.1, True),
        (1000, 1003, False),  # more than 2 instructions, but 0.3 %
        (100, 50, False),
        (-5, -4, False),  # the difference of two times may be below zero
    ],
)
def test_worse_is_above_by_share_and_by_number(before: float, now: float, fails: bool) -> None:  # noqa: FBT001
    """Both limits must be passed."""
    assert bool(compare(measured(now), {"6.1": {ROW: before}}).failures) is fails


def test_a_failure_names_row_kernel_and_both_figures() -> None:
    """So that nobody has to look them up."""
    found = compare(measured(1300), {"6.1": {ROW: 1200}})
    assert found.failures == (f"kernel 6.1: {ROW}: 1,300, baseline 1,200",)
    assert list(found.lines()) == [f"FAILED: kernel 6.1: {ROW}: 1,300, baseline 1,200", "1 failures"]


def test_a_row_or_kernel_that_the_baseline_lacks_is_new() -> None:
    """It is said, and no failure."""
    baselines: tuple[dict[str, dict[str, float]], ...] = ({}, {"6.12": {ROW: 1.0}}, {"6.1": {}})
    for baseline in baselines:
        found = compare(measured(279), baseline)
        assert found.new == (f"kernel 6.1: {ROW}: 279",)
        assert not found.failures


def test_what_became_cheaper_is_said() -> None:
    """The baseline can then be written anew, so that the gain is kept."""
    found = compare(measured(200), {"6.1": {ROW: 279}})
    assert found.better == (f"kernel 6.1: {ROW}: 200, baseline 279",)
    assert list(found.lines())[-1] == "nothing is above the baseline"


@pytest.mark.parametrize("baseline", [{}, {"6.1": {ROW: 279.0}}])
def test_a_program_that_did_not_run_fails(baseline: dict[str, dict[str, float]]) -> None:
    """Whether or not it once did."""
    assert compare(measured(None), baseline).failures == (f"kernel 6.1: {ROW}: not attached",)


def test_a_row_that_is_missing_and_a_guest_that_failed_fail() -> None:
    """Nothing vanishes in silence."""
    found = compare({"6.1": Measured(errors=["the guest's part ended with status 1"])}, {"6.1": {ROW: 279}})
    assert found.failures == (
        "kernel 6.1: the guest's part ended with status 1",
        f"kernel 6.1: {ROW}: not measured",
    )


def test_a_new_baseline_keeps_kernels_that_did_not_run() -> None:
    """It is ordered by version, and holds no row of a program that did not run."""
    results = {"6.12": Measured({ROW: 279.04, "flow": None}), "5.10": Measured({ROW: 250.0})}
    fresh = updated({"6.1": {ROW: 270.0}, "5.10": {"gone": 1.0}}, results)
    assert list(fresh) == ["5.10", "6.1", "6.12"]
    assert fresh == {"5.10": {ROW: 250.0}, "6.1": {ROW: 270.0}, "6.12": {ROW: 279.0}}


def test_tables() -> None:
    """A column per kernel, numbers to the right, the same cells in both forms."""
    cells = table({"6.1": Measured({"a": 1234.4, "bc": None}), "7.2": Measured({"a": 5.0})})
    assert text(cells) == (
        "instructions           6.1  7.2\n"
        "a                    1,234    5\n"
        "bc            not attached    -\n"
    )  # fmt: skip
    assert markdown(cells) == (
        "| instructions |          6.1 | 7.2 |\n"
        "| ------------ | -----------: | --: |\n"
        "| a            |        1,234 |   5 |\n"
        "| bc           | not attached |   - |\n"
    )
