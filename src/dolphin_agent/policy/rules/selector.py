"""spec.selector: a standard Kubernetes label selector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dolphin_agent.manifests.names import LABEL_KEY_RULE, LABEL_VALUE_RULE, is_label_key, is_label_value
from dolphin_agent.policy.field import either
from dolphin_agent.policy.model import LabelSelector, Requirement
from dolphin_agent.policy.vocabulary import Operator

if TYPE_CHECKING:
    from dolphin_agent.policy.field import Field


def read_selector(selector: Field) -> LabelSelector:
    """Read the selector; one that is absent or empty selects every pod."""
    parts = selector.fields()
    return LabelSelector(
        (
            *(_match_label(key, value) for key, value in parts["matchLabels"].members().items()),
            *(_expression(entry) for entry in parts["matchExpressions"].entries("requirements")),
        )
    )


def _match_label(key: str, value: Field) -> Requirement:
    if not is_label_key(key):
        value.fault(f"its key is not a label key: {LABEL_KEY_RULE}")
    return Requirement(key, Operator.IN, frozenset((_label_value(value),)))


def _expression(expression: Field) -> Requirement:
    parts = expression.fields()
    key = parts["key"].text()
    operator = parts["operator"].choice(Operator)
    values = parts["values"]
    wanted = frozenset(_label_value(value) for value in values.entries("label values"))
    if parts["key"].is_absent:
        parts["key"].fault("missing; give the key of the label to judge")
    elif key is not None and not is_label_key(key):
        parts["key"].fault(f"not a label key: {LABEL_KEY_RULE}")
    if parts["operator"].is_absent:
        parts["operator"].fault(f"missing; must be {either(Operator)}")
    elif operator in (Operator.IN, Operator.NOT_IN) and values.value in (None, []):
        values.fault(f"{operator} needs at least one value")
    elif operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and wanted:
        values.fault(f"{operator} takes no values; remove them")
    return Requirement(key or "", operator or Operator.IN, wanted)


def _label_value(value: Field) -> str:
    text = value.text()
    if text is not None and not is_label_value(text):
        value.fault(f"not a label value: {LABEL_VALUE_RULE}")
    return text or ""
