"""Which small units to keep: the exchange they take part in, its objective, and the optimisers."""
