"""Reading what others wrote: configuration and tensors, trusted in nothing."""
