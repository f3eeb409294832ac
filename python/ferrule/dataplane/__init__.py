"""The kernel's edge: processes, netlink, sysctls.

Forbidden here: knowledge of Services, decisions about when to sync, and (outside `process.py`) starting a process.
"""
