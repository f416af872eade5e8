"""Text for terminals, pipes and logs of any encoding."""

import io
import sys


def tolerate_encodings() -> None:
    """Lets stdout and stderr write what their encoding lacks, such as θ and ±, as '?'."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
