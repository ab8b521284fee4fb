"""`probe doctor`: what this machine, this model and this corpus are like, and what to do about it."""
