"""The machine as ferrule finds and sets it: kernel settings, addresses, this process's memory; and the probe at the
start. It starts no process."""
