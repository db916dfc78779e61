"""Every bad document ends somewhere: in the target with exactly its value, or in the quarantine with its reason."""
