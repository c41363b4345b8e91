"""Mirrors: where they are found, what is known of them, which one is next."""
