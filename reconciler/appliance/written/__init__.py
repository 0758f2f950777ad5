"""What may be written in an appliance file: the pydantic models."""
