"""Config: one frozen tree of settings, read once."""
