"""What the agent costs: instructions per event, counted in guests that take 1 ns for each (`make bench`)."""
