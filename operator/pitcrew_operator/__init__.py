"""Reconciles LLMEngine and LLMDeployment objects. Knows Kubernetes, and no tensor library."""
