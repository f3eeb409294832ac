"""HTTP endpoints for kubelets, load balancers, Prometheus and operators. This package does not decide about rules or
health."""
