"""The record of where frames went, and who ordered what: its entries, their chain, and what they add up to. Pure."""
