"""From cluster state to kernel state: when to sync, and the one loop that owns the engine.

Forbidden here: processes, sockets, files, and reading a clock that was not handed in.
"""
