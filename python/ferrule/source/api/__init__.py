"""The API server, as bytes: credentials, one HTTP client, one reflector a kind, Events.

Forbidden here: parsing cluster objects (Rust does, once; `own_node` is the exception, for one object) and starting a
process (`ferrule.process.exec_plugin` runs credential plugins).
"""
