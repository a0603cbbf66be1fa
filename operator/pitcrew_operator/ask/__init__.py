"""Asking pods: the only traffic of the operator that does not go to the API server."""
