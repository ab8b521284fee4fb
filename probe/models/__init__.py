"""A checkpoint's name -> an encoder: waveforms in, frames of every layer out."""
