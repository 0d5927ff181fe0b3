"""What an encoder learned: features and probes on them."""
