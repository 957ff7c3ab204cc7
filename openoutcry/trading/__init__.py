"""Our own exchange: a deterministic engine, one writer before it, a ledger behind it."""
