"""What was measured: drained counts added up into totals, and the immutable Snapshot that every exporter encodes."""
