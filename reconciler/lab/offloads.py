"""Packets as a wire carries them: no work is left to a NIC that is none. Numbers: sockios.h and ethtool.h."""

import array
import errno
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
# ETHTOOL_SRXCSUM, _STXCSUM, _STSO, _SGSO, _SGRO
_SWITCHES = (0x15, 0x17, 0x1F, 0x24, 0x2C)


def offloads_off(ifname: str) -> None:
    """Turn checksum and segmentation offloads of an interface off, in the calling thread's namespace.

    Between the ends of a veth pair, packets go without their checksums and in pieces of 64 KB. A program that copies
    packets, as Suricata does, must get them as a real NIC would have sent them.

    Raises:
        OSError: There is no such interface, or it may not be changed.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for switch in _SWITCHES:
            # struct ethtool_value: cmd, data
            value = array.array("B", struct.pack("=II", switch, 0))
            request = struct.pack("16sP16x", ifname.encode(), value.buffer_info()[0])
            try:
                fcntl.ioctl(control, _SIOCETHTOOL, request)
            except OSError as error:
                # Some drivers do not have, or do not let go of, some of them.
                if error.errno != errno.EOPNOTSUPP:
                    raise
