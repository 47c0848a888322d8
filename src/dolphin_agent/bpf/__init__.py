"""Thin bindings to libbpf: the only place that knows C types, file descriptors of BPF things and libbpf's rules."""
