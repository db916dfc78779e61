"""Killed anywhere, it converges: one fault in each run, at a known step or a random moment, and a judge."""
