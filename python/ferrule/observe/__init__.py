"""Observability: logs, metrics, health. This package changes nothing outside of it."""
