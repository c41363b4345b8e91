"""Tokens, users and passwords: how they are had, and where they go."""
