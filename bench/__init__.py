"""The bench: measures engine, tools and whole daemons, with stock kube-proxy beside ferrule in one run. See
README.md."""
