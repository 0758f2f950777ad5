"""The record of where frames went when not through the VM: its entries, their chain, and what it all adds up to. Pure."""
