"""Running tools: the one place that starts processes, and files in memory as their input and output."""
