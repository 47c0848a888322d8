"""Policies as objects, with what the validator and the API server say to each: table.py's and more.

The validator's faults in full are in table.py; here is what both must have in common.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import yaml

from dolphin_agent.policy.vocabulary import API_VERSION, ITEMS, KIND, MAX_PATH, NAMESPACE, SYSTEM_LABELS
from tests.policy.table import BAD, GOOD

Object = dict[str, object]

_ITEM: Object = {"ip": {"ipSend": {}}}


@dataclass(frozen=True)
class Case:
    """One object and what must be said about it."""

    name: str
    object: Object
    validator: str | None
    """Part of one of the validator's faults; None: it is right."""
    server: str | None
    """Part of the API server's answer to a strict client, as kubectl is; None: it is accepted."""
    pruned: str | None
    """The same where the client is not strict: unknown fields are dropped, and the rest is judged."""
    differs: str = ""
    """Why the API server and the validator disagree; empty: they agree."""

    def __str__(self) -> str:
        return self.name


def policy(spec: object) -> Object:
    """Give a policy with this spec."""
    metadata = {"name": "a", "namespace": NAMESPACE}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def _from_yaml(text: str) -> Object:
    """Decode a manifest as a client would, without what only the API server may set; of a list, the first item."""
    loaded = json.loads(json.dumps(yaml.safe_load(text), default=str))
    found: Object = loaded["items"][0] if loaded.get("kind") == "List" else loaded
    metadata = found["metadata"]
    assert isinstance(metadata, dict)
    metadata.pop("resourceVersion", None)
    return found


def _good(name: str, **spec: object) -> Case:
    """Both accept this spec; `monitor` is added where nothing is asked for."""
    if "healthCheck" not in spec:
        spec.setdefault("monitor", _ITEM)
    return Case(name, policy(spec), None, None, None)


def _bad(name: str, validator: str, server: str = "", /, **spec: object) -> Case:
    """Both refuse this spec; in the same words, where only the validator's are given."""
    spec.setdefault("monitor", _ITEM)
    return Case(name, policy(spec), validator, server or validator, server or validator)


def _stricter(name: str, server: str, **spec: object) -> Case:
    """Only the API server refuses this spec."""
    why = "its rules need a bound on what they look at; this one is far above any real policy"
    return Case(name, policy({"monitor": _ITEM, **spec}), None, server, server, why)


_NOTHING = "spec: Invalid value: asks for nothing; add an item under spec.monitor (pruned by the API server if it"
_SERVER: dict[str, str | tuple[str | None, str | None] | None] = {
    # Where and what it is
    "another kind": 'kind: Invalid value: "Deployment": must be MonitorPolicy',
    "kind misspelt": 'kind: Invalid value: "Monitorpolicy": must be MonitorPolicy',
    "kind missing": "Object 'Kind' is missing",
    "old API version": ('MonitorPolicy in version "v1beta1" cannot be handled', "does not match the expected API"),
    "no namespace": None,
    "another namespace": "the namespace of the provided object does not match the namespace sent on the request",
    "no name": "metadata.name: Required value",
    "name in capitals": 'metadata.name: Invalid value: "My_Task": a lowercase RFC 1123 subdomain must consist of',
    "name too long": "must be no more than 253 characters",
    "numeric name": "ObjectMeta.name of type string",
    "unknown metadata": ('unknown field "metadata.lables"', None),
    # Asking for nothing
    "no spec": _NOTHING,
    "empty spec": _NOTHING,
    "only a selector, as the API server leaves it": _NOTHING,
    "empty monitor": _NOTHING,
    "empty groups": _NOTHING,
    "disabled check alone": _NOTHING,
    # Unknown and misplaced fields
    "monitor under selector": ('unknown field "spec.selector.monitor"', _NOTHING),
    "monitor beside spec": ('unknown field "monitor"', _NOTHING),
    "monitor misspelt": ('unknown field "spec.moniter"', _NOTHING),
    "item misspelt": ('unknown field "spec.monitor.ip.ipRecieve"', _NOTHING),
    "item in wrong case": ('unknown field "spec.monitor.tcp.tcprtt"', _NOTHING),
    "item in the wrong group": ('unknown field "spec.monitor.ip.tcpSend"', _NOTHING),
    "item outside its group": ('unknown field "spec.monitor.ipSend"', _NOTHING),
    "granularity beside its item": ('unknown field "spec.monitor.ip.aggregateType"', _NOTHING),
    "field nobody knows": ('unknown field "spec.colour"', None),
    "podLabels": ('unknown field "spec.podLabels"', None),
    "field of a requirement": (
        'unknown field "spec.selector.matchExpressions[0].op"',
        "spec.selector.matchExpressions[0].operator: Required value",
    ),
    # Items
    "granularity misspelt": (
        'spec.monitor.ip.ipSend.aggregateType: Unsupported value: "flwo": supported values: "", "pod", "flow"'
    ),
    "tcpRtt per pod": 'spec.monitor.tcp.tcpRtt.aggregateType: Unsupported value: "pod": supported values: "", "flow"',
    "tcpNewConnection per flow": (
        'spec.monitor.tcp.tcpNewConnection.aggregateType: Unsupported value: "flow": supported values: "", "pod"'
    ),
    "granularity without its field": "spec.monitor.ip.ipSend in body must be of type object",
    "granularities as a list": "spec.monitor.ip.ipSend.aggregateType in body must be of type string",
    "items as a list": "spec.monitor.ip in body must be of type object",
    "monitor as text": "spec.monitor in body must be of type object",
    # Selector
    "unquoted boolean label value": "spec.selector.matchLabels.app in body must be of type string",
    "unquoted number label value": "spec.selector.matchLabels.app in body must be of type string",
    "null label value": "spec.selector.matchLabels: Invalid value: a value must not be empty",
    "label value with a space": 'spec.selector.matchLabels[app]: Invalid value: "a b": not a label value',
    "label value of 64 characters": "spec.selector.matchLabels.app: Too long: may not be more than 63",
    "label key with a bad prefix": "spec.selector.matchLabels: Invalid value: a key is not a label key",
    "label key with a newline": "spec.selector.matchLabels: Invalid value: a key is not a label key",
    "In without values": "matchExpressions[0].values: Invalid value: In and NotIn need at least one value",
    "NotIn without values": "In and NotIn need at least one value",
    "Exists with values": "Exists and DoesNotExist take no values; remove them",
    "operator in wrong case": 'operator: Unsupported value: "notin": supported values: "In", "NotIn", "Exists", "DoesN',
    "requirement without a key": "spec.selector.matchExpressions[0].key: Required value",
    "values as text": "spec.selector.matchExpressions[0].values in body must be of type array",
    "expressions as a mapping": (
        'unknown field "spec.selector.matchExpressions.key"',
        "spec.selector.matchExpressions in body must be of type array",
    ),
    # podLabel
    "eleven pod labels": "spec.podLabel: Too many: 11: must have at most 10 items",
    "pod label as text": "spec.podLabel in body must be of type array",
    "system label": 'spec.podLabel[0]: Invalid value: "srcip": taken: the agent sets pod, task, ipfamily, srcip, ',
    "histogram label": 'spec.podLabel[0]: Invalid value: "le": taken: Prometheus sets it on histograms',
    "reserved label": 'spec.podLabel[0]: Invalid value: "__name__": must not start with __',
    "pod label of 257 characters": "spec.podLabel[0]: Too long: may not be more than 256",
    "pod label with a space": 'spec.podLabel[0]: Invalid value: "a b": not a pod label key: letters, digits, ',
    "empty pod label among others": "spec.podLabel: Invalid value: an empty key is allowed alone only",
    "null pod label": "spec.podLabel[1] in body must be of type string",
    "pod label twice": "spec.podLabel: Invalid value: a key is listed twice; remove one",
    "pod labels that collide": "spec.podLabel: Invalid value: two keys are exported under the same name",
    # healthCheck
    "check without enable": "spec.healthCheck.enable: Required value",
    "enable as text": "spec.healthCheck.enable in body must be of type boolean",
    "unknown command": (
        'spec.healthCheck.command: Unsupported value: "arpin": supported values: "", "ping", "arping", "curl"'
    ),
    "no failures at all": "spec.healthCheck.failureThreshold in body should be greater than or equal to 1",
    "period as text": "spec.healthCheck.periodSeconds in body must be of type integer",
    "period of half a second": "spec.healthCheck.periodSeconds in body must be of type integer",
    "curl without a port": "spec.healthCheck.port: Required value: missing; curl needs a whole number from 1 to 65535",
    "port too high": "spec.healthCheck.port in body should be less than or equal to 65535",
    "path without a slash": 'spec.healthCheck.path: Invalid value: "healthz": must start with / and be at most 1024',
    "path with a line break": "must start with / and be at most 1024 printable ASCII characters without spaces",
    "family in capitals": 'ipFamilies[0]: Unsupported value: "IPv6": supported values: "", "ipv4", "ipv6"',
    "family twice": "spec.healthCheck.ipFamilies: Invalid value: a family is listed twice; remove one",
    # Items that are asked for
    "item without a body": _NOTHING,
    # Several at once
    "everything is told at once": 'aggregateType: Unsupported value: "all": supported values: "", "pod", "flow"',
}
"""What the API server says to manifests of table.py: to all clients, or to (strict ones, others)."""

_DIFFERS = {
    "no namespace": "the namespace is in the URL of the request too",
    "item without a body": "to its rules a null is the same as nothing, as `ipReceive: {}` is not",
}
"""Why it judges some otherwise than the validator."""


def _of_table() -> list[Case]:
    cases = []
    for case in (*GOOD, *BAD):
        # The line shows the value as it was written, which an object does not.
        validator = case.faults[0][1].rpartition('": ')[2] if case.faults else None
        server = _SERVER[case.name] if case.faults else _SERVER.get(case.name)
        strict, pruned = server if isinstance(server, tuple) else (server, server)
        why = _DIFFERS.get(case.name, "")
        cases.append(Case(case.name, _from_yaml(case.yaml), validator, strict, pruned, why))
    return cases


def _expression(**fields: object) -> Object:
    return {"matchExpressions": [fields]}


def _check(**fields: object) -> Object:
    return {"enable": True, **fields}


_SUBDOMAIN = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
_KEY_RULE = "letters, digits, '-', '_' and '.', starting and ending with a letter or digit, at most 63"
_LIST = "must not be empty"

CASES = (
    *_of_table(),
    # Nulls: left out, as far as both are concerned
    _good("null check", healthCheck=None, monitor={"tcp": {"tcpRtt": {}}}),
    _good("every field of a check null", healthCheck=_check(
        command=None, ipFamilies=None, port=None, path=None, periodSeconds=None, failureThreshold=None
    )),
    _good("null podLabel", podLabel=None),
    _good("null selector parts", selector={"matchLabels": None, "matchExpressions": None}),
    _good("null values", selector=_expression(key="a", operator="Exists", values=None)),
    _good("null granularity", monitor={"tcp": {"tcpNewConnection": {"aggregateType": None}}}),
    _good("null item beside another", monitor={"ip": {"ipReceive": None, "ipSend": {}}}),
    _bad("null monitor", "asks for nothing", _NOTHING, monitor=None),
    _bad("null enable", "missing; must be true or false", "enable: Required value", healthCheck={"enable": None}),
    _bad("null requirement", _LIST, "matchExpressions[0] in body must be of type object",
         selector={"matchExpressions": [None]}),
    _bad("null among values", _LIST, "values[0] in body must be of type string",
         selector=_expression(key="a", operator="In", values=[None])),
    # Items and operators one by one
    *(
        _good(f"{item} per {granularity or 'default'}", monitor={offer.group: {item: {"aggregateType": granularity}}})
        for item, offer in ITEMS.items()
        for granularity in ("", *offer.granularities)
    ),
    _good("In several values", selector=_expression(key="a", operator="In", values=["x", "y.z", "A_1"])),
    _good("In the empty value", selector=_expression(key="a", operator="In", values=[""])),
    _good("In the same value twice", selector=_expression(key="a", operator="In", values=["x", "x"])),
    _good("NotIn", selector=_expression(key="example.com/a", operator="NotIn", values=["x"])),
    _good("Exists", selector=_expression(key="a", operator="Exists")),
    _good("DoesNotExist with an empty list", selector=_expression(key="a", operator="DoesNotExist", values=[])),
    _bad("DoesNotExist with values", "takes no values", "take no values; remove them",
         selector=_expression(key="a", operator="DoesNotExist", values=["x"])),
    # Label keys and values
    _good("longest label key", selector={"matchLabels": {f"{_SUBDOMAIN}/{'n' * 63}": "v" * 63}}),
    _good("longest key of a requirement", selector=_expression(key=f"{_SUBDOMAIN}/{'n' * 63}", operator="Exists")),
    _bad("prefix of 254 characters", _KEY_RULE, selector={"matchLabels": {f"{_SUBDOMAIN}e/n": "v"}}),
    _bad("prefix of 254 characters in a requirement", _KEY_RULE,
         selector=_expression(key=f"{_SUBDOMAIN}e/n", operator="Exists")),
    _bad("prefix of 254 characters in podLabel", _KEY_RULE, podLabel=[f"{_SUBDOMAIN}e/n"]),
    _bad("name of 64 characters", _KEY_RULE, selector=_expression(key="n" * 64, operator="Exists")),
    _bad("empty key of a requirement", _KEY_RULE, selector=_expression(key="", operator="Exists")),
    _bad("empty label key", _KEY_RULE, selector={"matchLabels": {"": "v"}}),
    _bad("empty prefix", _KEY_RULE, selector=_expression(key="/a", operator="Exists")),
    _bad("two slashes", _KEY_RULE, selector=_expression(key="a/b/c", operator="Exists")),
    _bad("value that ends with a dash", "not a label value",
         selector=_expression(key="a", operator="In", values=["x-"])),
    _bad("value with a newline", "not a label value", selector=_expression(key="a", operator="In", values=["x\n"])),
    _bad("letter that is not ASCII", "not a label value", selector={"matchLabels": {"a": "é"}}),
    # podLabel
    _good("no pod labels", podLabel=[]),
    _good("system label in capitals", podLabel=["POD", "Task"]),
    _good("Prometheus name too long for Kubernetes", podLabel=["n" * 64]),
    _good("one underscore", podLabel=["_"]),
    _good("digits that do not collide", podLabel=["3scale", "_3scales", "4scale"]),
    *(_bad(f"system label {label}", "taken: the agent sets", podLabel=[label]) for label in SYSTEM_LABELS),
    _bad("digits and an underscore", "exported as _3scale", "two keys are exported under the same name",
         podLabel=["3scale", "_3scale"]),
    _bad("digits, dot and dash", "exported as _3_a", "two keys are exported under the same name",
         podLabel=["3.a", "3-a"]),
    _bad("slash and dash", "exported as a_b", "two keys are exported under the same name", podLabel=["a/b", "a-b"]),
    _bad("key too long for Kubernetes", _KEY_RULE, podLabel=["n" * 64 + "-b"]),
    _bad("prefix in capitals", _KEY_RULE, podLabel=["Example.com/a"]),
    _bad("two empty pod labels", "not a pod label key", "an empty key is allowed alone only", podLabel=["", ""]),
    _bad("digit that is not ASCII", "not a pod label key", podLabel=["a٣"]),
    # healthCheck
    _good("ping both families", healthCheck=_check(ipFamilies=["ipv4", "ipv6"])),
    _good("ping with a port and a path", healthCheck=_check(port=80, path="/x")),
    _good("arping with the default family", healthCheck=_check(command="arping", ipFamilies=[""])),
    _good("curl of the longest path", healthCheck=_check(command="curl", port=65535, path="/" + "p" * (MAX_PATH - 1))),
    _good("no families", healthCheck=_check(ipFamilies=[])),
    _good("highest numbers", healthCheck=_check(failureThreshold=1000, periodSeconds=86400, port=65535)),
    _bad("families with an empty one", "must be ipv4 or ipv6", healthCheck=_check(ipFamilies=["", "ipv4"])),
    _bad("two empty families", "must be ipv4 or ipv6", healthCheck=_check(ipFamilies=["", ""])),
    _bad("three families", "listed twice", "Too many: 3: must have at most 2", healthCheck=_check(
        ipFamilies=["ipv4", "ipv6", "ipv4"]
    )),
    _good("arping both families", healthCheck=_check(command="arping", ipFamilies=["ipv4", "ipv6"])),
    _bad("disabled curl without a port", "missing; curl needs a whole number from 1 to 65535",
         healthCheck={"enable": False, "command": "curl"}),
    _bad("port 0", "a whole number from 1", "greater than or equal to 1", healthCheck=_check(port=0)),
    _bad("failures above the most", "from 1 to 1000", "equal to 1000", healthCheck=_check(failureThreshold=1001)),
    _bad("period longer than a day", "from 1 to 86400", "equal to 86400", healthCheck=_check(periodSeconds=86401)),
    _bad("path too long", "at most 1024", "Too long: may not be more than 1024", healthCheck=_check(
        path="/" + "p" * MAX_PATH
    )),
    _bad("path that is not ASCII", "must start with / and be at most", healthCheck=_check(path="/é")),
    # Bounds that only the API server has
    _stricter("65 labels", "Too many: 65: must have at most 64", selector={
        "matchLabels": {f"l{index}": "v" for index in range(65)}
    }),
    _stricter("65 requirements", "Too many: 65: must have at most 64", selector={
        "matchExpressions": [{"key": "a", "operator": "Exists"}] * 65
    }),
    _stricter("257 values", "Too many: 257: must have at most 256",
              selector=_expression(key="a", operator="In", values=[f"v{index}" for index in range(257)])),
    _good(
        "as large as the bounds allow",
        selector={
            "matchLabels": {f"{index:02}{'l' * 61}": "v" * 63 for index in range(64)},
            "matchExpressions": [
                {
                    "key": f"{_SUBDOMAIN}/{'n' * 63}",
                    "operator": "In",
                    "values": [f"{index:03}{'v' * 60}" for index in range(256)],
                }
            ] * 64,
        },
        podLabel=[f"{letter}{_SUBDOMAIN[1:]}/x" for letter in "abcdefghij"],
    ),
)  # fmt: skip
