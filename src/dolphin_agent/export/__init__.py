"""How it leaves: encoders of one Snapshot, the agent's own metrics, and the HTTP endpoint."""
