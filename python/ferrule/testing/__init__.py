"""First-class fakes and namespaces for tests and the demo. Nothing outside tests and examples imports this."""
