"""Gradients of recurrent layers (to be filled)."""
