"""Who has how much: the one place where money is."""
