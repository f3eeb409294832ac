"""ferrule: a Kubernetes Service proxy for Linux nodes, kube-proxy's iptables mode made incremental.

Layers, from the outside in; each may import only those below it (`.importlinter` holds the contract):
cli → daemon, render → cleanup, manifests, sync → dataplane → config, observe → errors, types.
"""
