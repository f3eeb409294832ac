"""Where the cluster's state comes from: the API server, or a folder of manifests. It writes nothing into the kernel."""
