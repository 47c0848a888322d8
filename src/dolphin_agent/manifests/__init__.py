"""Reading Kubernetes manifests from files: what policies and pods have in common.

fault.py    one thing wrong, in one printable line
stream.py   YAML text -> documents that know where each of their values was written
watch.py    has this file changed?
"""
