"""What Kubernetes accepts as names. Each check is a question; the caller words the fault."""

from __future__ import annotations

import re

_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")

_MAX_SUBDOMAIN = 253
_MAX_QUALIFIED = 63

SUBDOMAIN_RULE = "lower-case letters, digits, '-' and '.', starting and ending with a letter or digit, at most 253"
LABEL_VALUE_RULE = "letters, digits, '-', '_' and '.', starting and ending with a letter or digit, at most 63, or empty"
LABEL_KEY_RULE = (
    "letters, digits, '-', '_' and '.', starting and ending with a letter or digit, at most 63, "
    "with an optional DNS prefix and '/' before it"
)


def is_subdomain(text: str) -> bool:
    """Tell whether `text` is a DNS-1123 subdomain, the form of an object's name."""
    return len(text) <= _MAX_SUBDOMAIN and bool(_SUBDOMAIN.fullmatch(text))


def is_label_value(text: str) -> bool:
    """Tell whether `text` can be the value of a Kubernetes label; the empty string can."""
    return not text or (len(text) <= _MAX_QUALIFIED and bool(_QUALIFIED.fullmatch(text)))


def is_label_key(text: str) -> bool:
    """Tell whether `text` can be the key of a Kubernetes label: `app`, `example.com/app`."""
    prefix, slash, name = text.rpartition("/")
    return bool(name) and is_label_value(name) and (not slash or is_subdomain(prefix))
