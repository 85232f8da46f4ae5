"""The wire format of the link, version 1; `link.proto` is its specification, `make protos` its generator."""
