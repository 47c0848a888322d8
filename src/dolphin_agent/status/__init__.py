"""What the agent says of itself: at /readyz, and to the API server.

describe.py      plan and kernel -> Status
node_monitor.py  Status -> this node's NodeMonitor
fold.py          all NodeMonitors -> the status of each MonitorPolicy
lease.py         which one of all agents folds
reporter.py      the thread that writes them
"""
