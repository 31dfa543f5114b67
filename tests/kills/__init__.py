"""Kills of a real server at random moments, and what the next one finds."""
