"""The API server as a source of bytes: credentials, one HTTP client, one reflector per kind, Events.

This package does not parse cluster objects (Rust does, once; `own_node` is the exception, for one object) and starts no
process (`ferrule.process.exec_plugin` runs credential plugins).
"""
