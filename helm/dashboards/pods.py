"""Pods: traffic, retransmissions, connections."""

from __future__ import annotations

from helm.dashboards.grafana import Dashboard, Kind, Panel, Query
from helm.dashboards.promql import SELECTED, most, pod_rate, variables


def _both_ways(item: str) -> tuple[Query, ...]:
    receive, _, what = item.partition(" ")
    return (
        Query(most(pod_rate(f"{receive}_receive_{what}_total")), "{{pod}} received"),
        Query(most(pod_rate(f"{receive}_send_{what}_total")), "{{pod}} sent", downwards=True),
    )


def _again() -> str:
    return most(f"{pod_rate('tcp_retransmits_total')} / ({pod_rate('tcp_send_packets_total')} > 0)")


def _opens(direction: str) -> str:
    rate = f'rate(dolphin_tcp_new_connections_total{{{SELECTED}, direction="{direction}"}}[$__rate_interval])'
    return most(f"sum by (pod) (max by (pod, ipfamily) ({rate}))")


DASHBOARD = Dashboard(
    "pods",
    "Dolphin / Pods",
    "What pods send and receive, how much of it twice, and whom they connect to.",
    variables("dolphin_(flow_)?(ip|tcp|udp)_.+_total"),
    (
        Panel(
            "How many bytes do pods move on the wire?",
            "Bytes of IP packets with their headers, as they are on the wire: received above zero, sent below, the 20 "
            "busiest pods. Needs ipReceive and ipSend; hostNetwork pods and traffic past the kernel's IP stack are not "
            "seen.",
            "Bps",
            _both_ways("ip bytes"),
        ),
        Panel(
            "How many packets is that?",
            "IP packets on the wire, received above zero, sent below: one that GRO or GSO merges counts as the packets "
            "it stands for. A packet that an OUTPUT rule drops inside the pod reaches no device and is not counted.",
            "pps",
            _both_ways("ip packets"),
        ),
        Panel(
            "How much of it is TCP payload?",
            "Payload bytes of TCP, retransmissions included, headers not. Needs tcpReceive and tcpSend; it cannot tell "
            "what the application has read.",
            "Bps",
            _both_ways("tcp bytes"),
        ),
        Panel(
            "How many TCP segments is that?",
            "TCP segments on the wire, those without payload and those sent again included. Segments that a rule of "
            "the pod's own namespace drops after they arrived are included.",
            "pps",
            _both_ways("tcp packets"),
        ),
        Panel(
            "How many UDP datagrams is that?",
            "UDP datagrams on the wire: one sent in fragments is one, one that UDP GSO or GRO merges counts as what it "
            "stands for. Needs udpReceive and udpSend; what nobody listens for is included.",
            "pps",
            _both_ways("udp packets"),
        ),
        Panel(
            "What share of TCP segments is sent again?",
            "Segments retransmitted of all TCP segments that the pod sent, SYNs and SYN-ACKs included. Needs "
            "tcpRetrans and tcpSend; says nothing of what the pod receives, and a pod that sends little jumps.",
            "percentunit",
            (Query(_again(), "{{pod}}"),),
        ),
        Panel(
            "How many connections do pods accept and open?",
            "TCP connections per second: accepted above zero, opened by the pod below. Attempts that were refused are "
            "among the opened; those that others attempt in vain are not among the accepted.",
            "cps",
            (
                Query(_opens("inbound"), "{{pod}} inbound"),
                Query(_opens("outbound"), "{{pod}} outbound", downwards=True),
            ),
        ),
        Panel(
            "How many events may these numbers lack?",
            "Events that the agents' programs may have missed in the time shown, of all nodes: an upper bound. 0 means "
            "that every number above is complete; an agent that does not run at all is not seen here.",
            "short",
            (Query("sum by (item) (increase(dolphin_agent_lost_events_total[$__range]))", "{{item}}"),),
            Kind.STAT,
            width=24,
            good_below=1,
        ),
    ),
)
