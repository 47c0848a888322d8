"""How each item is measured: its declaration, its ladder of hooks, the plan for this node, and the engine."""
