"""CustomResourceDefinitions from the typed models: the models are the only truth."""
