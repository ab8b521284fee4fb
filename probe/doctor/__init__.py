"""`probe doctor`: examine this machine, a model and a corpus, and say how to fix what is wrong."""
