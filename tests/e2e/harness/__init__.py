"""The harness of the end-to-end cases: a real control plane, nodes, Pods with real servers, and the proxies."""
