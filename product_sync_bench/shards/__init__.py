"""What shards cost on this machine, and a model of what they would give on many."""
