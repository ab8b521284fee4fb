"""What is trained on frozen features: linear probes, CTC heads, speaker projections."""
