"""Sources of cluster state: the API server, or a folder of manifests. This package writes nothing into the kernel."""
