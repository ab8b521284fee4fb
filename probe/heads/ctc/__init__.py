"""CTC heads: small networks that write characters or phones from frames."""
