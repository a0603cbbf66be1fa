"""The objects that the operator creates, as pure functions of the resources and settings."""
