"""The tests of integration/, in one guest per kernel."""

from __future__ import annotations
