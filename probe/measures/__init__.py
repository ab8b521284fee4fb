"""Measures: from outcomes per utterance or trial to a value, its interval and its difference from
another score.

`transcription` and `detection` measure; `counts` holds what a value derives from, in the form that
records keep. `uncertainty` computes intervals and `comparison` paired differences from those
counts. `bootstrap` resamples speakers; `degradation` and `groups` use it for what a score loses
under other conditions and for the worst group. Values are fractions.
"""
