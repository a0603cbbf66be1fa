"""kmock's Kubernetes with what our operator needs on top: versions, generations, server-side apply.

kmock merges plain JSON and creates nothing by PATCH, so apply is added here: by one manager, which
replaces what it gives under `spec` and `status`. Labels select; the garbage collector is not here.
"""
