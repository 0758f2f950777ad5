"""The loop around it all: watch, decide, reconcile, for ever."""
