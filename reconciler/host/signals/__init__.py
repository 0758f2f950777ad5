"""Evidence about the VM's health: one gatherer for each declared signal turns what it sees into readings."""
