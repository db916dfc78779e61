"""`make bench`: product_sync against what a user would take instead, and against what the two databases allow.

A claim of speed without a way to repeat it is worth nothing. This package makes a catalogue, runs everything on it in
one interleaved run, each as a process of its own seen from outside, checks after each run what it left in the target,
and writes the report. Nothing of it is part of the installed package, and product_sync knows nothing of it.
"""
