"""Models that are somebody else's code: their contract, how they are loaded, hooks."""
