"""Reading Kubernetes manifests from files: what policies and pods have in common.

fault.py    one thing wrong, in one printable line
stream.py   YAML text -> documents that know where each of their values was written
names.py    what Kubernetes accepts as names
watch.py    does this file have to be read again?
"""
