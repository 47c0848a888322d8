"""A whole cluster: the control plane on this machine, a real node in a guest."""
