"""Live events do no harm: a shop that never stands still, syncs back to back, and a judge of all that was written."""
