"""What is measured, beside its floor, in the same run: `python -m bench.<part>`."""
