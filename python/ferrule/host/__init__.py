"""The host: kernel settings, addresses, this process's memory, and the probe at the start. This package starts no
process."""
