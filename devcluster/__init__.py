"""A real single-node Kubernetes for the demo and the end-to-end tests, in namespaces of its own."""
