"""HTTP for kubelets, load balancers, Prometheus and operators. Forbidden here: deciding about rules or health."""
