"""What users ask for: MonitorPolicy.

vocabulary.py   the words of the API: items, granularities, limits
model.py        a policy that is known to be right
schema.py       which fields there are, and the field that was meant
field.py        reading a value that may be wrong
rules/          every rule of the spec, a module per field
parse.py        text or API object -> policies and faults
file.py         the policies of one watched file, each in its last good form
admission.py    which of them run, where files disagree or ask for too many
directory.py    the policies of a watched directory
objects.py      the policies that the API server has
validate.py     the `validate` command's work
"""
