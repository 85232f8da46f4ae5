"""The agent that runs on a device: joins a fleet once, then trains when it is asked to."""
