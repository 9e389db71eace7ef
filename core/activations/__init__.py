"""Paired residual streams, streamed and sharded; second moments are all that a fit keeps."""
