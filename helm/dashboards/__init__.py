"""The Grafana dashboards that the chart ships, as declarations.

`python -m helm.dashboards` writes helm/dolphin-agent/files/dashboards; a test holds the two together.
"""
