"""Whom to watch: the pods of this node.

model.py      a pod, whatever it was read from
manifest.py   a v1 Pod manifest -> Pod, or its faults
file.py       pods from a watched file
objects.py    a v1 Pod from the API server -> Pod
netns.py      path -> network namespace
paths.py      pod -> network namespace, by the path in its annotation
processes.py  pod -> network namespace, by the cgroups of its processes
backend.py    a pod in its network namespace, which is what is counted
"""
