"""Text for terminals, pipes and logs of any encoding."""

import sys


def tolerate_encodings() -> None:
    """Lets stdout and stderr write what their encoding lacks, such as θ and ±, as '?'."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
