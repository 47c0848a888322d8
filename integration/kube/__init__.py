"""Tests against a real API server: see README.md."""
