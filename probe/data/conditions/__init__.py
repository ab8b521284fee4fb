"""Conditions that change the audio before a model hears it: noise, rooms, channels, filters,
speed.
"""
