"""The link: a Flower Grid whose nodes are devices on gRPC streams."""
