"""Whole daemons against a real API server: stock kube-proxy and ferrule in one run."""
