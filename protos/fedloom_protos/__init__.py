"""The wire format between coordinator and devices."""
