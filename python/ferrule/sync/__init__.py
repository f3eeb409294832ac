"""From cluster state to kernel state: when to sync, and the one loop that owns the engine.

This package uses no processes, sockets or files, and reads no clock that was not passed in.
"""
