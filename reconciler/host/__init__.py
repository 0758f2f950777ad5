"""The only rooms that touch a host: netlink, ioctls, files, locks."""
