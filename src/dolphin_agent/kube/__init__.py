"""Speaking to the Kubernetes API server, in plain JSON.

access.py     where it is and who we are: in-cluster, or a kubeconfig
client.py     one request, one answer; or the lines of a watch
reflector.py  all objects of one kind, kept current by list and watch
"""
