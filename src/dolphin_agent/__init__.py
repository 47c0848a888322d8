"""dolphin-agent: exact, policy-driven container network metrics from eBPF."""
