"""The kernel's rules: iptables, nftables, tracked flows, accounting objects.

Forbidden here: knowledge of Services, decisions about when to sync, and starting a process (`ferrule.process` does).
"""
