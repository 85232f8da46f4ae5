"""The fleet: a private certificate authority, invitations, and who may connect."""
