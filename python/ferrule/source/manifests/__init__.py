"""Cluster state from files: a folder of manifests stands in for the API server.

`documents` turns one file's bytes into objects (pure), `folder` follows a folder. Forbidden here: knowing what a
Service means; the engine judges that.
"""
