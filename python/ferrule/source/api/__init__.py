"""The API server, as bytes: credentials, one HTTP client, one reflector a kind, Events.

Forbidden here: parsing cluster objects (Rust does, once; `own_node` is the exception, for one object) and
`import kubernetes_asyncio` (its `__init__` imports every model of the API: 38 MiB; see `lean`).
"""
