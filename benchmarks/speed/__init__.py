"""How fast downhaul is, side by side with what people use instead.

Every contestant is one process, started fresh for every run, of which everything counts: its start, its imports, its
hooks, its digests, its results. They take turns, round by round, and what is compared is compared within a round.
"""
