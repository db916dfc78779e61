"""Killed anywhere, it converges: one fault in the middle of each run, at a known step or a random moment, and a judge."""
