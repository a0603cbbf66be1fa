"""What every table says of the machine."""

import contextlib
import platform


def machine() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as info:
        names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
        return f"{len(names)} × {names[0]}"
    return platform.machine()
