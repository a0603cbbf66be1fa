"""Object storage that speaks S3: for checkpoints to read and engines to keep."""
