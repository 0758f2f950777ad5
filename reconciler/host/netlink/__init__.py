"""rtnetlink: bytes to values and back, observe, execute."""
