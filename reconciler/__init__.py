"""LAN bypass in software: a declared topology becomes the live network."""

__version__ = "0.1.0"
