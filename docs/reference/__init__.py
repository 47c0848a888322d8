"""The tables of docs/ that say again what the code declares: made from it, by `make docs`.

fill.py      a page with its tables made anew
metrics.py   items, health checks, the agent itself, labels: docs/metrics.md
policy.py    the fields of a MonitorPolicy, from its CustomResourceDefinition: docs/policies.md
"""
