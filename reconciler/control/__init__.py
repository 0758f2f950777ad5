"""Who asks: the control socket, and its other end."""
