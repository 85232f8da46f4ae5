"""The gateway: a device to a coordinator, and a coordinator to the devices of its own site."""
