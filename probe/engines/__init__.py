"""Where jobs run, and which of them: nothing here knows what a job does."""
