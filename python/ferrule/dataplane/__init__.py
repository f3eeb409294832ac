"""The data plane: reads and writes rules, conntrack entries and accounting objects in the kernel.

This package does not know Services, does not decide when to sync, and starts no process (`ferrule.process` does).
"""
