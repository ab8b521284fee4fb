"""Measures: from outcomes per utterance or trial to a value, its interval and its difference from
another.

`transcription` and `verification` measure, `counts` keeps what a value derives from in the form
that records hold, `uncertainty` computes intervals and paired differences from those counts. Values
are fractions.
"""
