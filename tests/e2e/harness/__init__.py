"""What end-to-end cases are written with: a real control plane, nodes, Pods with real servers, and the proxies."""
