"""Judges of the agent's two exits, Prometheus and OTLP: see README.md."""
