"""The child process of `tokenizer`: encodes one sentence within bounds. Exit code 3 tells a fault.

Run as `python -m pitcrew_builder.checkpoint.tokenizer_probe FILE BYTES SECONDS`.
"""

import resource
import sys

SENTENCE = (
    "The quick brown fox jumps over the lazy dog; 12,345 times, 'in the beginning', HE said.\n"
)
FAULT = 3


def main() -> int:
    """Bound ourselves, then read and use the tokenizer."""
    file, memory, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(file).encode(SENTENCE)
    except Exception as error:  # noqa: BLE001 (the library raises bare exceptions)
        print(error, file=sys.stderr)
        return FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
