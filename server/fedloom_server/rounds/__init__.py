"""The round loop: who is asked, what comes back, and what is done with it, on any grid."""
