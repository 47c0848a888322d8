"""What users ask for: MonitorPolicy.

vocabulary.py   the words of the API: items, granularities, limits
model.py        a policy that is known to be right
schema.py       which fields there are, and the field that was meant
names.py        what Kubernetes and Prometheus accept as names
field.py        reading a value that may be wrong
rules.py        every rule of the spec, each read together with the value it guards
parse.py        text or API object -> policies and faults
directory.py    policies from a watched directory
validate.py     the `validate` command's work
"""
