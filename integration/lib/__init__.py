"""What tests are made of: pods, traffic, the kernel's counters as judge, and the agent."""
