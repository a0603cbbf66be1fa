"""The messages of the gRPC service; `make proto` writes the modules from `inference.proto`."""
