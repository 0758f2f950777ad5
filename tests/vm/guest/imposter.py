"""In the agent's place: it beats like the agent while /run/mood says nothing else, and else it lies, floods or replays."""

import json
import time
from pathlib import Path

PORT = "/dev/virtio-ports/org.reconciler.agent.0"
MOOD = Path("/run/mood")
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
INTERVAL_S = 0.1


def beat(number):
    told = {"v": 1, "boot": BOOT, "run": "1" * 32, "seq": number, "interval_ms": 100, "checks": {}}
    return json.dumps(told).encode() + b"\n"


def main():
    number = 0
    with open(PORT, "wb", buffering=0) as port:
        while True:
            mood = MOOD.read_text(encoding="ascii").strip() if MOOD.exists() else "good"
            if mood != "replays":
                number += 1
            port.write(beat(number))
            if mood == "lies":
                port.write(b'{"v": 1, "state": "healthy"}\nall is well\n')
            if mood == "floods":
                port.write(beat(number) * 50)
            else:
                time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
