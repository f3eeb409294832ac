"""Cluster state from files: a folder of manifests replaces the API server.

`documents` decodes one file (pure), `folder` follows a folder. This package does not interpret Services; the engine
does.
"""
