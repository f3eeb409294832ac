"""The API server as a source of bytes: credentials, one HTTP client, one reflector per kind, Events.

This package does not parse cluster objects (Rust does, once) and starts no process (`ferrule.process.exec_plugin` runs
credential plugins).
"""
