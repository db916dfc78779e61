"""Kills the processes of runs whose steps are distributed, in each phase."""
