"""Good and bad policies with the faults each must have: the rules of MonitorPolicy by example.

The manifests are complete, so that the same table can be replayed against an API server.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent, indent


@dataclass(frozen=True)
class Case:
    """One manifest and what must be said about it."""

    name: str
    yaml: str
    faults: tuple[tuple[str, str], ...] = ()
    """(field, part of the line) of every fault, in order; empty: the policy is right."""

    def __str__(self) -> str:
        return self.name


_HEAD = "apiVersion: crd.dolphin.io/v1\nkind: MonitorPolicy\nmetadata: {name: a, namespace: kube-system}\n"
_MONITOR = "monitor: {ip: {ipSend: {aggregateType: pod}}}\n"


def spec(text: str) -> str:
    """Give a manifest with this spec."""
    return f"{_HEAD}spec:\n{indent(dedent(text), '  ')}"


def selector(text: str) -> str:
    """Give a manifest with this selector, right otherwise."""
    return spec(f"{_MONITOR}selector: {text}\n")


def pod_label(text: str) -> str:
    """Give a manifest with this podLabel, right otherwise."""
    return spec(f"{_MONITOR}podLabel: {text}\n")


def health(text: str) -> str:
    """Give a manifest with this health check and nothing else."""
    return spec(f"healthCheck: {text}\n")


def monitor(text: str) -> str:
    """Give a manifest with this monitor and nothing else."""
    return spec(f"monitor: {text}\n")


def top(text: str) -> str:
    """Give a manifest written out in full."""
    return dedent(text)


_SPEC = "spec: {monitor: {ip: {ipSend: {}}}}"

GOOD = (
    Case("one item", monitor("{ip: {ipSend: {aggregateType: pod}}}")),
    Case(
        "every item at every granularity",
        monitor(
            "{ip: {ipReceive: {aggregateType: pod}, ipSend: {aggregateType: flow}}, tcp: {tcpReceive: "
            "{aggregateType: flow}, tcpSend: {aggregateType: pod}, tcpRetrans: {aggregateType: flow}, "
            "tcpRtt: {aggregateType: flow}, tcpNewConnection: {aggregateType: pod}}}"
        ),
    ),
    Case("granularity left out", monitor("{ip: {ipSend: {}}}")),
    Case("granularity empty", monitor('{tcp: {tcpRtt: {aggregateType: ""}}}')),
    Case("item without a body", spec("monitor:\n  ip:\n    ipReceive:\n")),
    Case("one group empty", monitor("{ip: {}, tcp: {tcpSend: {}}}")),
    Case("one group null", spec("monitor:\n  ip:\n  tcp: {tcpSend: {}}\n")),
    Case("empty selector", selector("{}")),
    Case("null selector", selector("")),
    Case("selector with every operator", selector(
        "{matchLabels: {app: web, empty: ''}, matchExpressions: [{key: example.com/a, operator: In, values: [x, y]}, "
        "{key: b, operator: NotIn, values: [z]}, {key: c, operator: Exists}, "
        "{key: d, operator: DoesNotExist, values: []}]}"
    )),
    Case("quoted number as a label value", selector('{matchLabels: {version: "1"}}')),
    Case("date as a label value", selector("{matchLabels: {day: 2024-05-01}}")),
    Case("ten pod labels", pod_label("[a, b, c, d, e, f, g, h, i, j]")),
    Case("Kubernetes label keys", pod_label("[app.kubernetes.io/name, 3scale.net/app, _private]")),
    Case("one empty pod label", pod_label('[""]')),
    Case("pod label of 256 characters", pod_label(f"[{'a' * 256}]")),
    Case("ping by default", health("{enable: true}")),
    Case("health check with every default written as empty", health(
        '{enable: true, command: "", ipFamilies: [""], path: ""}'
    )),
    Case("curl", health("{enable: true, command: curl, port: 8080, path: /healthz, ipFamilies: [ipv6, ipv4]}")),
    Case("arping", health("{enable: true, command: arping}")),
    Case("arping over IPv6", health("{enable: true, command: arping, ipFamilies: [ipv6]}")),
    Case("disabled check beside an item", spec(f"{_MONITOR}healthCheck: {{enable: false}}\n")),
    Case("as kubectl prints it", top("""\
        apiVersion: crd.dolphin.io/v1
        kind: MonitorPolicy
        metadata:
          annotations: {note: "1"}
          creationTimestamp: "2026-01-01T00:00:00Z"
          finalizers: [x/y]
          generation: 4
          labels: {team: net}
          managedFields: [{manager: kubectl, fieldsV1: {"f:spec": {}}}]
          name: a
          namespace: kube-system
          resourceVersion: "123"
          uid: 5d9c1b3e-0000-4000-8000-000000000000
        spec: {monitor: {ip: {ipSend: {}}}}
        status: {conditions: [{type: Ready, status: "True"}]}
        """)),
    Case("a list of one", top("""\
        apiVersion: v1
        kind: List
        items:
        - apiVersion: crd.dolphin.io/v1
          kind: MonitorPolicy
          metadata: {name: a, namespace: kube-system}
          spec: {monitor: {ip: {ipSend: {}}}}
        """)),
    Case("anchor and alias", spec("monitor:\n  ip:\n    ipSend: &flow {aggregateType: flow}\n    ipReceive: *flow\n")),
    Case("JSON", '{"apiVersion": "crd.dolphin.io/v1", "kind": "MonitorPolicy", "metadata": {"name": "a", '
         '"namespace": "kube-system"}, "spec": {"monitor": {"ip": {"ipSend": {}}}}}'),
    Case("longest name", f"{_HEAD.replace('name: a,', 'name: ' + 'a' * 253 + ',')}{_SPEC}"),
)  # fmt: skip

_NOTHING = "asks for nothing"

BAD = (
    # Where and what it is
    Case("another kind", f"{_HEAD.replace('MonitorPolicy', 'Deployment')}spec: {{replicas: 1}}",
         (("kind", '"Deployment": must be MonitorPolicy'),)),
    Case("kind misspelt", f"{_HEAD.replace('MonitorPolicy', 'Monitorpolicy')}{_SPEC}",
         (("kind", "did you mean MonitorPolicy?"),)),
    Case("kind missing", f"{_HEAD.replace('kind: MonitorPolicy', '')}{_SPEC}", (("kind", "missing"),)),
    Case("old API version", f"{_HEAD.replace('/v1', '/v1beta1')}{_SPEC}",
         (("apiVersion", "must be crd.dolphin.io/v1"),)),
    Case("another namespace", f"{_HEAD.replace('kube-system', 'default')}{_SPEC}",
         (("metadata.namespace", '"default": must be kube-system'),)),
    Case("no namespace", f"{_HEAD.replace(', namespace: kube-system', '')}{_SPEC}",
         (("metadata.namespace", "missing; must be kube-system"),)),
    Case("no name", f"{_HEAD.replace('name: a, ', '')}{_SPEC}", (("metadata.name", "missing"),)),
    Case("name in capitals", f"{_HEAD.replace('name: a,', 'name: My_Task,')}{_SPEC}",
         (("metadata.name", '"My_Task": not an object name'),)),
    Case("name too long", f"{_HEAD.replace('name: a,', 'name: ' + 'a' * 254 + ',')}{_SPEC}",
         (("metadata.name", "at most 253"),)),
    Case("numeric name", f"{_HEAD.replace('name: a,', 'name: 1,')}{_SPEC}",
         (("metadata.name", '"1": must be a string, not a number; quote it'),)),
    Case("unknown metadata", f"{_HEAD.replace('name: a,', 'name: a, lables: {},')}{_SPEC}",
         (("metadata.lables", "did you mean metadata.labels?"),)),
    # Asking for nothing
    Case("no spec", _HEAD, (("spec", _NOTHING),)),
    Case("empty spec", f"{_HEAD}spec: {{}}", (("spec", _NOTHING),)),
    Case("only a selector, as the API server leaves it", spec("selector: {matchLabels: {app: web}}"),
         (("spec", "pruned by the API server if it was indented under spec.selector"),)),
    Case("empty monitor", monitor("{}"), (("spec.monitor", _NOTHING),)),
    Case("empty groups", monitor("{ip: {}, tcp: {}}"), (("spec.monitor", _NOTHING),)),
    Case("disabled check alone", health("{enable: false}"), (("spec", _NOTHING),)),
    # Unknown and misplaced fields
    Case("monitor under selector", spec("selector:\n  monitor: {ip: {ipSend: {}}}\n"),
         (("spec.selector.monitor", "did you mean spec.monitor (it is indented too far)?"),)),
    Case("monitor beside spec", f"{_HEAD}spec: {{}}\nmonitor: {{ip: {{ipSend: {{}}}}}}",
         (("monitor", "did you mean spec.monitor (indent it under spec)?"),)),
    Case("monitor misspelt", spec("moniter: {ip: {ipSend: {}}}"), (("spec.moniter", "did you mean spec.monitor?"),)),
    Case("item misspelt", monitor("{ip: {ipRecieve: {}}}"),
         (("spec.monitor.ip.ipRecieve",
           "allowed here: ipReceive, ipSend, ipDrop, ipError; did you mean spec.monitor.ip.ipReceive?"),)),
    Case("item in wrong case", monitor("{tcp: {tcprtt: {}}}"),
         (("spec.monitor.tcp.tcprtt", "did you mean spec.monitor.tcp.tcpRtt?"),)),
    Case("item in the wrong group", monitor("{ip: {tcpSend: {}}}"),
         (("spec.monitor.ip.tcpSend", "did you mean spec.monitor.tcp.tcpSend?"),)),
    Case("item outside its group", monitor("{ipSend: {}}"),
         (("spec.monitor.ipSend", "did you mean spec.monitor.ip.ipSend (indent it under ip)?"),)),
    Case("granularity beside its item", spec("monitor:\n  ip:\n    ipSend:\n    aggregateType: flow\n"),
         (("spec.monitor.ip.aggregateType", "did you mean spec.monitor.ip.ipSend.aggregateType (indent it"),)),
    Case("field nobody knows", spec(f"{_MONITOR}colour: blue\n"), (("spec.colour", '"blue": unknown field'),)),
    Case("podLabels", spec(f"{_MONITOR}podLabels: [app]\n"), (("spec.podLabels", "did you mean spec.podLabel?"),)),
    Case("field of a requirement", selector("{matchExpressions: [{key: a, op: Exists}]}"), (
        ("spec.selector.matchExpressions[0].op", "allowed here: key, operator, values"),
        ("spec.selector.matchExpressions[0].operator", "missing; must be In, NotIn, Exists or DoesNotExist"),
    )),
    # Items
    Case("granularity misspelt", monitor("{ip: {ipSend: {aggregateType: flwo}}}"),
         (("spec.monitor.ip.ipSend.aggregateType", '"flwo": must be pod or flow; did you mean flow?'),)),
    Case("tcpRtt per pod", monitor("{tcp: {tcpRtt: {aggregateType: pod}}}"),
         (("spec.monitor.tcp.tcpRtt.aggregateType", "must be flow (tcpRtt has no other granularity)"),)),
    Case("tcpNewConnection per flow", monitor("{tcp: {tcpNewConnection: {aggregateType: flow}}}"),
         (("spec.monitor.tcp.tcpNewConnection.aggregateType", "must be pod"),)),
    Case("granularity without its field", monitor("{ip: {ipSend: flow}}"),
         (("spec.monitor.ip.ipSend", "must be a mapping with aggregateType, not a string"),)),
    Case("granularities as a list", monitor("{ip: {ipSend: {aggregateType: [pod, flow]}}}"),
         (("spec.monitor.ip.ipSend.aggregateType", "must be a string, not a list"),)),
    Case("items as a list", monitor("{ip: [ipSend]}"), (("spec.monitor.ip", "not a list"),)),
    Case("monitor as text", monitor("ipSend"), (("spec.monitor", "must be a mapping with ip, tcp"),)),
    # Selector
    Case("unquoted boolean label value", selector("{matchLabels: {app: yes}}"),
         (("spec.selector.matchLabels.app", '"yes": must be a string, not a boolean; quote it'),)),
    Case("unquoted number label value", selector("{matchLabels: {app: 1}}"),
         (("spec.selector.matchLabels.app", "quote it"),)),
    Case("null label value", selector("{matchLabels: {app: }}"),
         (("spec.selector.matchLabels.app", "must not be empty"),)),
    Case("label value with a space", selector("{matchLabels: {app: a b}}"),
         (("spec.selector.matchLabels.app", '"a b": not a label value'),)),
    Case("label value of 64 characters", selector(f"{{matchLabels: {{app: {'a' * 64}}}}}"),
         (("spec.selector.matchLabels.app", "at most 63"),)),
    Case("label key with a bad prefix", selector("{matchLabels: {Ex_ample.com/app: a}}"),
         (("spec.selector.matchLabels[Ex_ample.com/app]", "its key is not a label key"),)),
    Case("label key with a newline", selector('{matchLabels: {"a\\n": b}}'),
         (("spec.selector.matchLabels[a\n]", "its key is not a label key"),)),
    Case("In without values", selector("{matchExpressions: [{key: a, operator: In, values: []}]}"),
         (("spec.selector.matchExpressions[0].values", "In needs at least one value"),)),
    Case("NotIn without values", selector("{matchExpressions: [{key: a, operator: NotIn}]}"),
         (("spec.selector.matchExpressions[0].values", "NotIn needs at least one value"),)),
    Case("Exists with values", selector("{matchExpressions: [{key: a, operator: Exists, values: [b]}]}"),
         (("spec.selector.matchExpressions[0].values", "Exists takes no values"),)),
    Case("operator in wrong case", selector("{matchExpressions: [{key: a, operator: notin, values: [b]}]}"),
         (("spec.selector.matchExpressions[0].operator", "did you mean NotIn?"),)),
    Case("requirement without a key", selector("{matchExpressions: [{operator: Exists}]}"),
         (("spec.selector.matchExpressions[0].key", "missing"),)),
    Case("values as text", selector("{matchExpressions: [{key: a, operator: In, values: b}]}"),
         (("spec.selector.matchExpressions[0].values", "must be a list of label values, not a string"),)),
    Case("expressions as a mapping", selector("{matchExpressions: {key: a, operator: Exists}}"),
         (("spec.selector.matchExpressions", "must be a list of requirements, not a mapping"),)),
    # podLabel
    Case("eleven pod labels", pod_label("[a, b, c, d, e, f, g, h, i, j, k]"),
         (("spec.podLabel", "11 keys; at most 10 are allowed"),)),
    Case("pod label as text", pod_label("app"), (("spec.podLabel", "must be a list of pod label keys, not a string"),)),
    Case("system label", pod_label("[srcip]"), (("spec.podLabel[0]", '"srcip": taken: the agent sets pod, task'),)),
    Case("histogram label", pod_label("[le]"), (("spec.podLabel[0]", "taken: Prometheus"),)),
    Case("reserved label", pod_label("[__name__]"), (("spec.podLabel[0]", "must not start with __"),)),
    Case("pod label of 257 characters", pod_label(f"[{'a' * 257}]"), (("spec.podLabel[0]", "257 characters long"),)),
    Case("pod label with a space", pod_label("[a b]"), (("spec.podLabel[0]", '"a b": not a pod label key'),)),
    Case("empty pod label among others", pod_label('[app, ""]'), (("spec.podLabel[1]", '"": not a pod label key'),)),
    Case("null pod label", pod_label("[app, ~]"), (("spec.podLabel[1]", "must not be empty"),)),
    Case("pod label twice", pod_label("[app, app]"), (("spec.podLabel[1]", "listed twice"),)),
    Case("pod labels that collide", pod_label("[a.b, a_b]"),
         (("spec.podLabel[1]", 'exported as a_b, like "a.b"; remove one of them'),)),
    # healthCheck
    Case("check without enable", health("{command: ping}"), (("spec.healthCheck.enable", "missing"),)),
    Case("enable as text", health('{enable: "true"}'),
         (("spec.healthCheck.enable", "must be true or false, not a string"),)),
    Case("unknown command", health("{enable: true, command: arpin}"),
         (("spec.healthCheck.command", "must be ping, arping or curl; did you mean arping?"),)),
    Case("no failures at all", health("{enable: true, failureThreshold: 0}"),
         (("spec.healthCheck.failureThreshold", '"0": must be a whole number from 1 to 1000'),)),
    Case("period as text", health('{enable: true, periodSeconds: "5"}'),
         (("spec.healthCheck.periodSeconds", "not a string"),)),
    Case("period of half a second", health("{enable: true, periodSeconds: 0.5}"),
         (("spec.healthCheck.periodSeconds", "must be a whole number from 1 to 86400"),)),
    Case("curl without a port", health("{enable: true, command: curl}"),
         (("spec.healthCheck.port", "missing; curl needs a whole number from 1 to 65535"),)),
    Case("port too high", health("{enable: true, command: curl, port: 65536}"),
         (("spec.healthCheck.port", '"65536": must be a whole number from 1 to 65535'),)),
    Case("path without a slash", health("{enable: true, command: curl, port: 80, path: healthz}"),
         (("spec.healthCheck.path", '"healthz": must start with /'),)),
    Case("path with a line break", health('{enable: true, command: curl, port: 80, path: "/a\\r\\nHost: b"}'),
         (("spec.healthCheck.path", "without spaces"),)),
    Case("family in capitals", health("{enable: true, ipFamilies: [IPv6]}"),
         (("spec.healthCheck.ipFamilies[0]", "did you mean ipv6?"),)),
    Case("family twice", health("{enable: true, ipFamilies: [ipv4, ipv4]}"),
         (("spec.healthCheck.ipFamilies[1]", "listed twice"),)),
    # Several at once
    Case("everything is told at once", spec("""\
        selector: {matchLabels: {app: on}}
        podLabel: [pod]
        monitor:
          ip: {ipSend: {aggregateType: all}}
        """), (
        ("spec.selector.matchLabels.app", "quote it"),
        ("spec.podLabel[0]", "taken"),
        ("spec.monitor.ip.ipSend.aggregateType", "must be pod or flow"),
    )),
)  # fmt: skip

BAD_YAML = (
    Case("not a mapping", "just text", (("", "must be a MonitorPolicy"),)),
    Case("field twice", spec(f"{_MONITOR}{_MONITOR}"), (("spec.monitor", "given twice, first on line 5"),)),
    Case("merge key", spec(f"{_MONITOR}<<: {{podLabel: [app]}}\n"), (("spec", "merging (<<) is not supported"),)),
    Case("field name that is no string", spec(f"{_MONITOR}true: 1\n"), (("spec.true", "quote it"),)),
    Case("custom tag", monitor("!include other.yaml"), (("spec.monitor", "the YAML tag !include is not supported"),)),
)  # fmt: skip
"""What no JSON object can be, so that an API server's answer never is."""
