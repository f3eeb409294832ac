"""Fakes and namespaces for tests and the demo. Only tests and examples import this package."""
