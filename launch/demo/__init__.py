"""Real photographs for the demo: data only, see README.md beside this file."""
