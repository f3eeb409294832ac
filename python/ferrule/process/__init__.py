"""Runs tools: the only package that starts processes, and in-memory files as their input and output."""
