"""Every rule of a MonitorPolicy's spec, in a module per field of `spec`.

Each `read_...` function reads its part, reports what is wrong with it and returns its model. What is returned
after a fault is a stand-in: the caller discards the policy as soon as there is one fault.
"""
