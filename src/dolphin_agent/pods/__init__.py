"""Whom to watch: the pods of this node.

model.py      a pod, whatever it was read from
manifest.py   a v1 Pod manifest -> Pod, or its faults
file.py       pods from a watched file
netns.py      path -> network namespace
"""
