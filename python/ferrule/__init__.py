"""ferrule: a Kubernetes Service proxy for Linux nodes that programs kube-proxy's iptables rules incrementally.

Layers, from the outside in; each may import only those below it (`.importlinter` holds the contract):
cli → daemon, render → cleanup, manifests, sync → dataplane → config, observe → errors, types.
"""
