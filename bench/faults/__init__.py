"""What happens to the wire when something breaks: see `__main__`."""
