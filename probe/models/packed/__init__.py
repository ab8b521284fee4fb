"""Packed execution: linear products over the frames of many utterances at once, everything that
mixes frames per utterance.

``products`` the linear layers, ``frontend`` audio -> frames, ``positional`` the positional
convolution, ``attention``, ``encoder`` the whole, ``support`` which checkpoints it is for.
"""
