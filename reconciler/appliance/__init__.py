"""What a vendor declares: the appliance file, its schema and its proofs. Pure."""
